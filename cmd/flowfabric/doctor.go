package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/spf13/cobra"
)

// verdict is the outcome of one check.
type verdict string

const (
	verdictOK   verdict = "ok"
	verdictWarn verdict = "warn"
	verdictFail verdict = "fail"
)

// finding is one line of the doctor's report.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Advice  string  `json:"advice,omitempty"`
}

// What the doctor worries about.
const (
	skewWarn       = 500 * time.Millisecond
	skewFail       = 5 * time.Second
	latencyWarn    = 250 * time.Millisecond
	stuckAfter     = time.Minute // work a live worker could take, and nobody took
	lapsedAfter    = time.Minute // a lease nobody reclaimed
	lateDutyCycles = 10
)

func (c *cli) doctorCommand() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check that everything is well",
		Long: `Check the deployment: is the store reachable and how fast, which version, do the
clocks agree, is there a key for waitpoints, do the background duties run, are the
indexes right, does work wait that nobody takes, are leases left lapsed. Of a Valkey
store also: version and clock of every node, eviction, memory, encodings, persistence,
replicas, and the function library of each primary.

Exits 1 when a check fails; warnings exit 0. --repair rebuilds the indexes from
the records first, over live data.`,
		Example: `  flowfabric doctor
  flowfabric doctor --repair --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := c.target()
			if err != nil {
				return err
			}
			return c.printFindings(c.examine(cmd.Context(), t, repair))
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair the indexes over live data")
	return cmd
}

// examine runs every check that can be run.
func (c *cli) examine(ctx context.Context, t target, repair bool) []finding {
	d := &doctor{cli: c, target: t}
	if t.place.Kind == config.PlaceValkey {
		if d.checkValkey(ctx); d.failed() {
			return d.findings
		}
	}
	b, err := c.open(ctx, t)
	if err != nil {
		d.add("store", verdictFail, errorLine(explainUnreachable(err, t)), "")
		return d.findings
	}
	d.b = b
	d.checkStore(ctx)
	if !d.failed() {
		d.checkVersion(ctx)
		d.checkClock(ctx)
		d.checkReadiness(ctx)
		d.checkSecret()
		d.checkWaitpointKey(ctx)
		if t.place.Kind != config.PlaceValkey { // there servers run them, which "deployment" counts
			d.checkDuties(ctx)
		}
		if repair {
			d.repairIndexes(ctx)
		}
		d.checkLanesAndWorkers(ctx)
		d.checkExpiredLeases(ctx)
	}
	if err := b.Close(); err != nil {
		d.add("close", verdictFail, errorLine(err), "")
	}
	return d.findings
}

type doctor struct {
	*cli
	target   target
	b        flowfabric.Backend
	findings []finding
}

func (d *doctor) add(check string, v verdict, detail, advice string) {
	d.findings = append(d.findings, finding{check, v, detail, advice})
}

// checkValkey looks at the store itself, also where it can't be opened.
func (d *doctor) checkValkey(ctx context.Context) {
	for _, f := range valkey.Examine(ctx, d.target.valkey) {
		d.add(f.Check, verdict(f.Verdict), f.Detail, f.Advice)
	}
}

// failedOn reports a check that could not be made; a forbidden or unsupported
// one is only a warning.
func (d *doctor) failedOn(check string, err error) {
	v := verdictFail
	if e := flowfabric.AsError(err); e != nil && (e.Class == flowfabric.ClassUnauthorized || e.Code == flowfabric.CodeUnsupportedOperation) {
		v = verdictWarn
	}
	d.add(check, v, errorLine(err), "")
}

func (d *doctor) failed() bool {
	return slices.ContainsFunc(d.findings, func(f finding) bool { return f.Verdict == verdictFail })
}

func (d *doctor) checkStore(ctx context.Context) {
	start := time.Now()
	if err := d.b.Ping(ctx); err != nil {
		d.add("store", verdictFail, errorLine(explainUnreachable(err, d.target)), "")
		return
	}
	took := time.Since(start)
	v := verdictOK
	if took > latencyWarn {
		v = verdictWarn
	}
	d.add("store", v, fmt.Sprintf("%s answers in %s", d.target, took.Round(10*time.Microsecond)), "")
	parts, err := d.b.PartitionConfig(ctx)
	if err != nil {
		d.failedOn("partitions", err)
		return
	}
	d.add("partitions", verdictOK, fmt.Sprintf("%d flow, %d budget, %d quota", parts.NumFlowPartitions, parts.NumBudgetPartitions, parts.NumQuotaPartitions), "")
}

func (d *doctor) checkVersion(ctx context.Context) {
	info, err := d.b.Describe(ctx)
	if err != nil {
		d.failedOn("version", err)
		return
	}
	detail := fmt.Sprintf("%s %s; this program %s", info.Family, info.Version, buildVersion())
	if info.DeploymentID != "" {
		detail += "; deployment " + info.DeploymentID
	}
	d.add("version", verdictOK, strings.TrimSpace(detail), "")
}

// checkClock compares a server's store clock with this machine's. An embedded
// store has no other clock.
func (d *doctor) checkClock(ctx context.Context) {
	if d.target.place.Kind == config.PlaceValkey {
		return // among its checks
	}
	if d.target.place.Kind != config.PlaceRemote {
		d.add("clock", verdictOK, "the store's clock is this machine's", "")
		return
	}
	start := d.now()
	res, err := d.get(ctx, "/livez")
	if err != nil {
		d.failedOn("clock", err)
		return
	}
	res.Body.Close()
	rtt := d.now().Sub(start)
	ms, err := strconv.ParseInt(res.Header.Get("FF-Store-Time-Ms"), 10, 64)
	if err != nil {
		d.add("clock", verdictWarn, "the server does not tell its store's time", "")
		return
	}
	skew := time.UnixMilli(ms).Sub(start.Add(rtt / 2)).Round(time.Millisecond)
	detail := fmt.Sprintf("the store's clock differs from this machine's by %s", skew)
	switch abs := skew.Abs() - rtt/2; {
	case abs > skewFail:
		d.add("clock", verdictFail, detail, "set the clocks by NTP")
	case abs > skewWarn:
		d.add("clock", verdictWarn, detail, "set the clocks by NTP")
	default:
		d.add("clock", verdictOK, detail, "")
	}
}

func (d *doctor) get(ctx context.Context, path string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.target.place.URL+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	res.Body.Close()
	res.Body = io.NopCloser(strings.NewReader(string(body)))
	return res, err
}

// checkReadiness asks a server which of its own checks fail.
func (d *doctor) checkReadiness(ctx context.Context) {
	if d.target.place.Kind != config.PlaceRemote {
		return
	}
	res, err := d.get(ctx, "/readyz")
	if err != nil {
		d.failedOn("readiness", err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		d.add("readiness", verdictOK, "the server takes work", "")
		return
	}
	var problem struct {
		Details struct {
			Checks map[string]string `json:"checks"`
		} `json:"details"`
	}
	_ = json.NewDecoder(res.Body).Decode(&problem) // an unreadable body names no checks
	var failing []string
	for name, state := range problem.Details.Checks {
		if state != "ok" {
			failing = append(failing, clean(name))
		}
	}
	slices.Sort(failing)
	detail := fmt.Sprintf("the server is not ready (status %d)", res.StatusCode)
	if len(failing) > 0 {
		detail += ": " + strings.Join(failing, ", ")
	}
	d.add("readiness", verdictFail, detail, "a drained server comes back with: flowfabric drain --off")
}

// checkSecret looks at the secret file beside an embedded store.
func (d *doctor) checkSecret() {
	if d.target.place.Kind != config.PlaceEmbedded {
		return
	}
	loaded, err := config.Load(config.Sources{Environ: d.environ, Flags: map[string]string{"backend": "sqlite:" + d.target.path}})
	if err != nil {
		return // the settings are the server's business: flowfabric config check
	}
	s, err := loaded.FindSecret()
	switch {
	case err != nil:
		d.add("secret", verdictFail, errorLine(err), "")
	case s.Origin == config.SecretNone:
		d.add("secret", verdictOK, "no file; the store's own keys hold", "")
	default:
		d.add("secret", verdictOK, "there, readable by its owner only", "")
	}
}

// checkWaitpointKey asks which key makes the waitpoints' tokens: without one
// nothing can suspend.
func (d *doctor) checkWaitpointKey(ctx context.Context) {
	kids, err := d.b.ListWaitpointKIDs(ctx)
	switch {
	case err != nil:
		d.failedOn("waitpoint key", err)
	case kids.CurrentKID == "":
		d.add("waitpoint key", verdictFail, "there is none: nothing can suspend", "start a server, which installs one")
	case len(kids.Verifying) > 0:
		d.add("waitpoint key", verdictOK, fmt.Sprintf("%s makes the tokens; %s of before still verify", clean(kids.CurrentKID), plural(len(kids.Verifying), "key", "keys")), "")
	default:
		d.add("waitpoint key", verdictOK, clean(kids.CurrentKID)+" makes the tokens", "")
	}
}

func (d *doctor) checkDuties(ctx context.Context) {
	duties, err := d.b.ListScanners(ctx)
	if err != nil {
		d.failedOn("duties", err)
		return
	}
	now := flowfabric.Millis(d.now().UnixMilli())
	var late, failing []string
	indexes := finding{Check: "indexes", Verdict: verdictOK, Detail: "no repair was needed"}
	for _, s := range duties {
		if s.LastRunAt != 0 && int64(now-s.LastRunAt) > max(lateDutyCycles*s.IntervalMs, 10_000) {
			late = append(late, s.Name)
		}
		if s.LastError != "" {
			failing = append(failing, s.Name+": "+short(s.LastError, 80))
		}
		if s.Name == "index_reconciler" && s.Rows > 0 {
			indexes.Verdict, indexes.Detail = verdictWarn, fmt.Sprintf("%d entries were repaired since the start", s.Rows)
		}
	}
	switch {
	case len(duties) == 0:
		d.add("duties", verdictWarn, "no duties run here", "one process must run them (FF_SCANNERS=true)")
	case len(late) > 0:
		d.add("duties", verdictFail, "late: "+strings.Join(late, ", "), "see: flowfabric scanner list")
	case len(failing) > 0:
		d.add("duties", verdictWarn, strings.Join(failing, "; "), "see: flowfabric scanner list")
	default:
		d.add("duties", verdictOK, plural(len(duties), "duty runs", "duties run"), "")
	}
	d.findings = append(d.findings, indexes)
}

// repairIndexes rebuilds all indexes and waits for the end.
func (d *doctor) repairIndexes(ctx context.Context) {
	m := d.meter("repairing the indexes")
	defer m.end()
	job, err := d.b.StartReconcile(ctx, nil)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for err == nil && job.State == "running" {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-tick.C:
			job, err = d.b.GetReconcile(ctx, job.JobID)
		}
		m.set(fmt.Sprintf("repairing the indexes: %d examined", job.Examined), -1)
	}
	switch {
	case err != nil:
		d.failedOn("repair", err)
	case job.State == "failed":
		d.add("repair", verdictFail, clean(job.Error), "")
	case len(job.Violations) > 0:
		d.add("repair", verdictFail, fmt.Sprintf("%s break a validity rule: %s", plural(len(job.Violations), "record", "records"), short(strings.Join(job.Violations, "; "), 200)), "restore from a backup, or report it")
	default:
		d.add("repair", verdictOK, fmt.Sprintf("%d examined, %d repaired, %d removed", job.Examined, job.Repaired, job.Removed), "")
	}
}

func (d *doctor) checkLanesAndWorkers(ctx context.Context) {
	lanes, err := allLanes(ctx, d.b)
	if err != nil {
		d.failedOn("lanes", err)
		return
	}
	workers, err := allWorkers(ctx, d.b, "", "")
	if err != nil {
		d.failedOn("workers", err)
		workers = nil
	} else {
		d.add("workers", verdictOK, plural(len(workers), "live worker", "live workers"), "")
	}
	var closed []string
	for _, l := range lanes {
		if l.State != flowfabric.LaneActive {
			closed = append(closed, string(l.LaneID)+" is "+string(l.State))
		}
	}
	if len(closed) > 0 {
		d.add("lanes", verdictWarn, strings.Join(closed, ", "), "see: flowfabric lane list")
	} else {
		d.add("lanes", verdictOK, plural(len(lanes), "lane", "lanes")+", all active", "")
	}
	stuck := 0
	for _, l := range lanes {
		if f, ok := d.stuckIn(l, workers); ok {
			d.findings = append(d.findings, f)
			stuck++
		}
	}
	if stuck == 0 {
		d.add("waiting work", verdictOK, "nothing has waited for a worker for more than "+span(stuckAfter), "")
	}
}

// stuckIn reports waiting work of a lane that nobody takes. Interrupted work is
// told of by its lapsed leases.
func (d *doctor) stuckIn(l flowfabric.LaneStatus, workers []flowfabric.WorkerRegistration) (finding, bool) {
	if l.OldestEligibleAt == 0 || l.Counts[flowfabric.PublicWaiting] == 0 || l.State == flowfabric.LaneDisabled {
		return finding{}, false
	}
	age := d.now().Sub(timeOf(l.OldestEligibleAt))
	if age < stuckAfter {
		return finding{}, false
	}
	serving := 0
	for _, w := range workers {
		if slices.Contains(w.Lanes, l.LaneID) {
			serving++
		}
	}
	f := finding{Check: "waiting work", Verdict: verdictWarn,
		Detail: fmt.Sprintf("lane %s: %d waiting, the oldest for %s", clean(string(l.LaneID)), l.Counts[flowfabric.PublicWaiting], span(age))}
	if serving == 0 {
		f.Detail += "; no live worker serves it"
		f.Advice = fmt.Sprintf("start a worker of lane %q", string(l.LaneID))
		return f, true
	}
	f.Detail += "; " + plural(serving, "worker serves", "workers serve") + " it"
	f.Advice = "see why with: flowfabric execution list --state waiting; flowfabric execution explain ID"
	return f, true
}

func (d *doctor) checkExpiredLeases(ctx context.Context) {
	args := flowfabric.ListExpiredLeasesArgs{Limit: flowfabric.MaxExpiredLeasesLimit}
	now, lapsed, old := flowfabric.Millis(d.now().UnixMilli()), 0, 0
	for {
		res, err := d.b.ListExpiredLeases(ctx, args)
		if err != nil {
			d.failedOn("expired leases", err)
			return
		}
		for _, l := range res.Leases {
			lapsed++
			if int64(now-l.ExpiresAt) > lapsedAfter.Milliseconds() {
				old++
			}
		}
		if res.NextCursor == "" {
			break
		}
		args.Cursor = res.NextCursor
	}
	if old > 0 {
		d.add("expired leases", verdictWarn, fmt.Sprintf("%s more than %s ago and nobody took the work over", plural(old, "lease lapsed", "leases lapsed"), span(lapsedAfter)),
			"start a worker that can take the work over; see: flowfabric execution list --state active")
		return
	}
	d.add("expired leases", verdictOK, plural(lapsed, "lapsed lease", "lapsed leases")+" to be reclaimed", "")
}

func (c *cli) printFindings(findings []finding) error {
	p := c.printer()
	worst := verdictOK
	for _, f := range findings {
		if f.Verdict == verdictFail || (f.Verdict == verdictWarn && worst == verdictOK) {
			worst = f.Verdict
		}
	}
	var outcome error
	if worst == verdictFail {
		outcome = &quietError{code: exitFailed}
	}
	if p.wantsJSON() {
		return firstError(p.json(map[string]any{"verdict": worst, "findings": findings}), outcome)
	}
	rows := make([][]string, len(findings))
	for i, f := range findings {
		detail := clean(f.Detail)
		if f.Advice != "" {
			detail += p.faint("  → " + clean(f.Advice))
		}
		rows[i] = []string{p.verdict(f.Verdict), f.Check, detail}
	}
	return firstError(p.table("", []string{"", "CHECK", "FINDING"}, rows), outcome)
}

func (p *printer) verdict(v verdict) string {
	switch v {
	case verdictOK:
		return p.good("✓ ok")
	case verdictWarn:
		return p.warn("! warn")
	}
	return p.bad("✗ fail")
}
