package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
)

// ringStore is a store of which only the key ring works, with copies that fail
// or are found in some state.
type ringStore struct {
	ownStore
	failures  int // how many rotations leave a copy behind
	rotations []flowfabric.RotateWaitpointSecretArgs
	seeded    flowfabric.SeedWaitpointSecretResult
	err       error
}

func (s *ringStore) RotateWaitpointSecret(_ context.Context, a flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
	s.rotations = append(s.rotations, a)
	second := flowfabric.RotatedCopy{Partition: 7, Outcome: flowfabric.RotateRotated}
	if len(s.rotations) <= s.failures {
		second = flowfabric.RotatedCopy{Partition: 7, Err: flowfabric.NewError(flowfabric.CodeStoreUnavailable, "a shard is away")}
	}
	return flowfabric.RotateWaitpointSecretResult{NewKID: a.NewKID, Copies: []flowfabric.RotatedCopy{{Outcome: flowfabric.RotateRotated, PreviousKID: "k1"}, second}}, nil
}

func (s *ringStore) ListWaitpointKIDs(context.Context) (flowfabric.WaitpointKIDs, error) {
	return flowfabric.WaitpointKIDs{}, s.err
}

func (s *ringStore) SeedWaitpointSecret(context.Context, string, string) (flowfabric.SeedWaitpointSecretResult, error) {
	return s.seeded, s.err
}

func (s *ringStore) Close() error { return nil }

// TestRotationOfAPart repeats a rotation that left copies behind with the same
// secret, and tells when it could not: specification 03, section 5.2.
func TestRotationOfAPart(t *testing.T) {
	rotate := func(s *ringStore, args ...string) result {
		var out, errs bytes.Buffer
		env := &environment{in: strings.NewReader(""), out: &out, err: &errs, now: time.Now,
			open: func(context.Context, target) (flowfabric.Backend, error) { return s, nil }}
		code := run(t.Context(), env, append([]string{"secret", "rotate", "--kid", "k2", "--generated"}, args...))
		return result{code, out.String(), errs.String()}
	}
	s := &ringStore{failures: 2}
	if r := rotate(s); r.code != exitOK || !strings.Contains(r.out, "k2 makes the tokens now") {
		t.Errorf("%+v", r)
	}
	if len(s.rotations) != 3 || s.rotations[0].NewSecretHex != s.rotations[2].NewSecretHex || len(s.rotations[0].NewSecretHex) != 64 || s.rotations[0].GraceMs != nil {
		t.Errorf("%d rotations, and not all with one secret", len(s.rotations))
	}
	s = &ringStore{failures: 100}
	r := rotate(s)
	if r.code != exitFailed || !strings.Contains(r.err, "1 copy of the keys could not be changed, partition 7 first") || strings.Contains(r.out+r.err, s.rotations[0].NewSecretHex) {
		t.Errorf("%+v", r)
	}
	var answer struct {
		Rotated int      `json:"rotated"`
		Failed  []uint16 `json:"failed"`
		NewKID  string   `json:"new_kid"`
	}
	r = rotate(&ringStore{failures: 100}, "--output", "json", "--grace", "1s")
	if err := json.Unmarshal([]byte(r.out), &answer); err != nil || r.code != exitFailed || answer.Rotated != 1 || len(answer.Failed) != 1 || answer.NewKID != "k2" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestSeedingAtStart: what the seeding found is one line of the log each, and a
// store that can't be seeded refuses the start. (Specification 08, section 6.2.)
func TestSeedingAtStart(t *testing.T) {
	seed := func(s *ringStore) (string, error) {
		loaded, err := config.Load(config.Sources{Environ: []string{"FF_BACKEND=memory", "FF_WAITPOINT_HMAC_SECRET=" + testSecret}})
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		p := &process{cfg: loaded, log: newLogger(&log, config.Log{}, false), backend: s}
		err = p.seedSecret(t.Context())
		return log.String(), err
	}
	found := func(outcomes ...flowfabric.SeedOutcome) *ringStore {
		s := &ringStore{seeded: flowfabric.SeedWaitpointSecretResult{Copies: map[flowfabric.SeedOutcome]int{}, CurrentKID: "k5"}}
		for _, o := range outcomes {
			s.seeded.Copies[o]++
		}
		return s
	}
	for _, tt := range []struct {
		store *ringStore
		want  string // of the one line; "" is none
		level string
	}{
		{found(flowfabric.SeedUnchanged), "", ""},
		{found(flowfabric.SeedInstalled, flowfabric.SeedInstalled), `"copies":2`, "INFO"},
		{found(flowfabric.SeedRepaired, flowfabric.SeedUnchanged), "had lost its secret", "WARN"},
		{found(flowfabric.SeedKept, flowfabric.SeedKept), `"kid":"k5"`, "WARN"},
	} {
		log, err := seed(tt.store)
		lines := strings.Count(log, "\n")
		if err != nil || tt.want == "" && lines != 0 || tt.want != "" && (lines != 1 || !strings.Contains(log, tt.want) || !strings.Contains(log, tt.level)) {
			t.Errorf("%v: %v\n%s", tt.store.seeded.Copies, err, log)
		}
		if strings.Contains(log, testSecret) {
			t.Error("the log shows the secret")
		}
	}
	away := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "a shard is away")
	if _, err := seed(&ringStore{err: away}); !errors.Is(err, away) || exitCode(bootError(err)) != exitFailed {
		t.Errorf("a store that can't be seeded: %v", err)
	}
}
