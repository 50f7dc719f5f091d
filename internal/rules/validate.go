package rules

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/flowfabric/flowfabric"
)

const (
	maxRequesterBytes   = 256
	maxLaneReasonBytes  = 256
	maxRouteSnapshot    = 4096
	maxAdmissionSummary = 1024
	defaultEncoding     = "json"
)

// ValidateExecutionID checks the identifier's syntax, invalid_execution_id, and
// that its partition exists here, invalid_input with field "execution_id" and
// reason "partition_out_of_range".
func ValidateExecutionID(id flowfabric.ExecutionID, parts flowfabric.PartitionConfig) error {
	if _, err := flowfabric.ParseExecutionID(string(id)); err != nil {
		return err
	}
	if n := int(id.Partition()); n >= parts.NumFlowPartitions {
		return flowfabric.InvalidInput("execution_id", "partition %d is not below %d", n, parts.NumFlowPartitions).
			With("reason", "partition_out_of_range")
	}
	return nil
}

func validateID(id flowfabric.ExecutionID) error {
	_, err := flowfabric.ParseExecutionID(string(id))
	return err
}

// validateFence checks the parts of a fence and its shape, for an operation that
// may be called without one by an operator (override) or never (otherwise).
func validateFence(f flowfabric.Fence, override bool) error {
	if err := validateOptionalUUID("lease_id", string(f.LeaseID)); err != nil {
		return err
	}
	if err := validateOptionalUUID("attempt_id", string(f.AttemptID)); err != nil {
		return err
	}
	if f.Complete() {
		return nil
	}
	if !f.Empty() {
		return flowfabric.NewError(flowfabric.CodePartialFenceTriple, "fence needs lease_id, lease_epoch and attempt_id")
	}
	if override {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeFenceRequired, "the operation needs a fence")
}

// validateHolderSource checks the source of an operation that belongs to the
// lease holder and that an operator may force.
func validateHolderSource(s flowfabric.Source) error {
	switch s {
	case "", flowfabric.SourceLeaseHolder, flowfabric.SourceOperatorOverride:
		return nil
	}
	return flowfabric.InvalidInput("source", "%q is not allowed here", string(s))
}

func source(s flowfabric.Source) flowfabric.Source {
	if s == "" {
		return flowfabric.SourceLeaseHolder
	}
	return s
}

func validatePayload(field string, payload []byte) error {
	if len(payload) <= flowfabric.MaxPayloadBytes {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodePayloadTooLarge, "%s is %d bytes, limit %d", field, len(payload), flowfabric.MaxPayloadBytes).
		With("limit", flowfabric.MaxPayloadBytes).With("actual", len(payload)).With("field", field)
}

func validateEncoding(field, encoding string) error {
	return validateText(field, encoding, 0, flowfabric.MaxEncodingBytes)
}

// validateText checks the length of a text and that it is valid UTF-8.
func validateText(field, s string, lowest, highest int) error {
	if len(s) < lowest {
		return flowfabric.InvalidInput(field, "must not be empty").With("reason", "empty")
	}
	if len(s) > highest {
		return flowfabric.InvalidInput(field, "is %d bytes, limit %d", len(s), highest).With("reason", "too_long").With("length", len(s))
	}
	if !utf8.ValidString(s) {
		return flowfabric.InvalidInput(field, "is not valid UTF-8").With("reason", "not_utf8")
	}
	return nil
}

// validateLine is validateText without control characters.
func validateLine(field, s string, lowest, highest int) error {
	if err := validateText(field, s, lowest, highest); err != nil {
		return err
	}
	for i, r := range s {
		if r < 0x20 || r >= 0x7F && r < 0xA0 {
			return flowfabric.InvalidInput(field, "has a control character at %d", i).With("reason", "non_printable").With("index", i)
		}
	}
	return nil
}

func validateKind(kind string) error {
	if err := validateText("execution_kind", kind, 1, flowfabric.MaxExecutionKindBytes); err != nil {
		return err
	}
	for i := 0; i < len(kind); i++ {
		if kind[i] <= 0x20 || kind[i] >= 0x7F {
			return flowfabric.InvalidInput("execution_kind", "has a forbidden byte at %d", i).With("reason", "non_printable").With("index", i)
		}
	}
	return nil
}

func validateRange(field string, n, lowest, highest int64) error {
	if n >= lowest && n <= highest {
		return nil
	}
	return flowfabric.InvalidInput(field, "is %d, must be %d..%d", n, lowest, highest).With("reason", "out_of_range")
}

func validateLeaseTTL(ms int64) error {
	return validateRange("lease_ttl_ms", ms, flowfabric.MinLeaseTTLMs, flowfabric.MaxLeaseTTLMs)
}

func validateGrantTTL(ms int64) error {
	return validateRange("grant_ttl_ms", ms, 1, flowfabric.MaxGrantTTLMs)
}

func validateWorker(worker flowfabric.WorkerID, instance flowfabric.WorkerInstanceID) error {
	if err := worker.Validate(); err != nil {
		return err
	}
	return instance.Validate()
}

func validateOptionalUUID(field, id string) error {
	if id == "" {
		return nil
	}
	return flowfabric.ValidateUUID(field, id)
}

// Cut shortens s to at most limit bytes at a character boundary.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// cleanReason cuts a reason and replaces what is not UTF-8, so that every store
// can keep it.
func cleanReason(s string) string {
	return Cut(strings.ToValidUTF8(s, "\uFFFD"), flowfabric.MaxReasonBytes)
}

// ValidateTagKey checks a tag key: ^[a-z][a-z0-9_]*\.[a-z0-9_][a-z0-9_.]*$, at
// most 256 bytes; else invalid_tag_key with the detail "key". (Specification 01,
// section 8.9.)
func ValidateTagKey(key string) error {
	if validTagKey(key) {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeInvalidTagKey, "tag key %q", Cut(key, 80)).With("key", Cut(key, flowfabric.MaxTagKeyBytes))
}

func validTagKey(key string) bool {
	if len(key) > flowfabric.MaxTagKeyBytes {
		return false
	}
	dot := strings.IndexByte(key, '.')
	if dot < 1 || dot == len(key)-1 || key[0] < 'a' || key[0] > 'z' || key[dot+1] == '.' {
		return false
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		word := c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !word && (c != '.' || i < dot) {
			return false
		}
	}
	return true
}

// validateTags checks keys and values. Of several faults the one of the first
// key in byte order is reported, so that every store reports the same.
func validateTags(tags map[string]string) error {
	faulty := false
	for k, v := range tags {
		if !validTagKey(k) || len(v) > flowfabric.MaxTagValueBytes || !utf8.ValidString(v) {
			faulty = true
			break
		}
	}
	if !faulty {
		return nil
	}
	keys := make([]string, 0, len(tags))
	for k := range tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := ValidateTagKey(k); err != nil {
			return err
		}
	}
	for _, k := range keys {
		if err := validateText("tags", tags[k], 0, flowfabric.MaxTagValueBytes); err != nil {
			return flowfabric.AsError(err).With("key", k)
		}
	}
	return nil
}

func tooManyTags(n int) error {
	return flowfabric.InvalidInput("tags", "has %d pairs, limit %d", n, flowfabric.MaxTags).
		With("limit", flowfabric.MaxTags).With("actual", n)
}

// ValidateListExecutions checks a listing and fills in the default limit.
func ValidateListExecutions(a *flowfabric.ListExecutionsArgs, parts flowfabric.PartitionConfig) error {
	if int(a.Partition) >= parts.NumFlowPartitions {
		return flowfabric.InvalidInput("partition", "is %d, must be below %d", a.Partition, parts.NumFlowPartitions).
			With("reason", "partition_out_of_range")
	}
	if a.Limit == 0 {
		a.Limit = flowfabric.DefaultListLimit
	}
	if err := validateRange("limit", int64(a.Limit), 1, flowfabric.MaxListLimit); err != nil {
		return err
	}
	if a.Cursor != "" {
		if err := validateID(a.Cursor); err != nil || a.Cursor.Partition() != a.Partition {
			return flowfabric.NewError(flowfabric.CodeInvalidCursor, "cursor is not an execution of partition %d", a.Partition)
		}
	}
	if a.Namespace != "" {
		if err := a.Namespace.Validate(); err != nil {
			return err
		}
	}
	if a.LaneID != "" {
		if err := a.LaneID.Validate(); err != nil {
			return err
		}
	}
	known := flowfabric.PublicStates()
	for _, st := range a.PublicStates {
		if !slices.Contains(known, st) {
			return flowfabric.InvalidInput("public_state", "%q is no public state", Cut(string(st), 80))
		}
	}
	if a.Kind != "" {
		if err := validateKind(a.Kind); err != nil {
			return err
		}
	}
	if err := validateOptionalUUID("flow_id", string(a.FlowID)); err != nil {
		return err
	}
	return validateTags(a.Tags)
}

// ValidateListAttempts checks a listing of attempts and fills in the default
// limit.
func ValidateListAttempts(a *flowfabric.ListAttemptsArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if a.Limit == 0 {
		a.Limit = 100
	}
	return validateRange("limit", int64(a.Limit), 1, flowfabric.MaxListLimit)
}
