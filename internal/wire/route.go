package wire

import (
	"net/url"
	"strings"
)

// The patterns of the routes, as net/http's ServeMux takes them, without the
// method. (Specification 08, section 4.)
const (
	RouteExecutions      = "/v1/executions"
	RouteExecutionsBatch = "/v1/executions/batch"

	RouteExecution            = "/v1/executions/{execution_id}"
	RouteExecutionState       = RouteExecution + "/state"
	RouteExecutionWait        = RouteExecution + "/wait"
	RouteExecutionInput       = RouteExecution + "/input"
	RouteExecutionResult      = RouteExecution + "/result"
	RouteExecutionContext     = RouteExecution + "/context"
	RouteExecutionAttempts    = RouteExecution + "/attempts"
	RouteExecutionCurrent     = RouteExecution + "/attempts/current"
	RouteExecutionLease       = RouteExecution + "/lease"
	RouteExecutionHistory     = RouteExecution + "/lease-history"
	RouteExecutionRouting     = RouteExecution + "/routing"
	RouteExecutionCancel      = RouteExecution + "/cancel"
	RouteExecutionComplete    = RouteExecution + "/complete"
	RouteExecutionFail        = RouteExecution + "/fail"
	RouteExecutionDelay       = RouteExecution + "/delay"
	RouteExecutionPriority    = RouteExecution + "/priority"
	RouteExecutionReplay      = RouteExecution + "/replay"
	RouteExecutionRevoke      = RouteExecution + "/revoke-lease"
	RouteExecutionReleaseHold = RouteExecution + "/release-hold"
	RouteExecutionReclaim     = RouteExecution + "/reclaim"
	RouteExecutionUngrant     = RouteExecution + "/release-grant"
	RouteExecutionDirectClaim = RouteExecution + "/direct-claim"
	RouteExecutionClaim       = RouteExecution + "/claim"
	RouteExecutionPause       = RouteExecution + "/pause"
	RouteExecutionUnpause     = RouteExecution + "/unpause"
	RouteExecutionTags        = RouteExecution + "/tags"
	RouteExecutionTag         = RouteExecution + "/tags/{key}"
	RouteExecutionSuspension  = RouteExecution + "/suspension"
	RouteExecutionResume      = RouteExecution + "/resume"
	RouteExecutionSignals     = RouteExecution + "/signals"
	RouteExecutionSignal      = RouteExecution + "/signals/{signal_id}"
	RouteExecutionDeliver     = RouteExecution + "/signal"
	RouteExecutionApproval    = RouteExecution + "/approval-signal"
	RouteExecutionWaitpoints  = RouteExecution + "/pending-waitpoints"
	RouteWaitpointToken       = RouteExecution + "/waitpoints/{waitpoint_id}/token"
	RouteWaitpointClose       = RouteExecution + "/waitpoints/{waitpoint_id}/close"

	RouteAttempt         = RouteExecution + "/attempts/{attempt_index}"
	RouteAttemptRenew    = RouteAttempt + "/renew"
	RouteAttemptProgress = RouteAttempt + "/progress"
	RouteAttemptComplete = RouteAttempt + "/complete"
	RouteAttemptFail     = RouteAttempt + "/fail"
	RouteAttemptCancel   = RouteAttempt + "/cancel"
	RouteAttemptDelay    = RouteAttempt + "/delay"

	RouteAttemptSuspend        = RouteAttempt + "/suspend"
	RouteAttemptResumeSignals  = RouteAttempt + "/resume-signals"
	RouteAttemptWaitpoints     = RouteAttempt + "/waitpoints"
	RouteAttemptWaitpointClose = RouteAttempt + "/waitpoints/{waitpoint_id}/close"

	RouteWorkerInstances         = "/v1/worker-instances"
	RouteWorkerInstance          = "/v1/worker-instances/{worker_instance_id}"
	RouteWorkerInstanceHeartbeat = RouteWorkerInstance + "/heartbeat"
	RouteWorkerInstanceLeases    = RouteWorkerInstance + "/leases"

	RouteWorkerClaim       = "/v1/workers/{worker_id}/claim"
	RouteWorkerTasks       = "/v1/workers/{worker_id}/tasks"
	RouteWorkerRenewals    = "/v1/workers/{worker_id}/renewals"
	RouteWorkerCompletions = "/v1/workers/{worker_id}/completions"

	RouteLanes     = "/v1/lanes"
	RouteLane      = "/v1/lanes/{lane_id}"
	RouteLaneState = RouteLane + "/state"

	RouteExpiredLeases = "/v1/leases/expired"
	RouteSuspended     = "/v1/suspended"

	// RouteCallback is the one route for untrusted parties.
	RouteCallback = "/v1/callbacks/{execution_id}/{waitpoint_id}"

	RouteFeed    = "/v1/feeds/{feed}"
	RouteFeedSSE = RouteFeed + "/sse"

	RouteCapabilities    = "/v1/capabilities"
	RoutePartitionConfig = "/v1/partition-config"

	RouteScanners            = "/v1/admin/scanners"
	RouteScannerRun          = "/v1/admin/scanners/{name}/run"
	RouteReconcile           = "/v1/admin/reconcile"
	RouteReconcileJob        = "/v1/admin/reconcile/{job_id}"
	RoutePartitionCollisions = "/v1/admin/partition-collisions"
	RouteDrain               = "/v1/admin/drain"
	RouteWaitpointSecrets    = "/v1/admin/waitpoint-secrets"
	RouteRotateSecret        = "/v1/admin/rotate-waitpoint-secret"

	RouteLivez   = "/livez"
	RouteHealthz = "/healthz"
	RouteReadyz  = "/readyz"
	RouteMetrics = "/metrics"
	RouteOpenAPI = "/openapi.json"
)

// Path fills a pattern's wildcards with params in order, each percent-encoded as
// one path segment. It panics when the counts differ.
func Path(pattern string, params ...string) string {
	var b strings.Builder
	b.Grow(len(pattern) + 64)
	for {
		open := strings.IndexByte(pattern, '{')
		if open < 0 {
			break
		}
		end := open + strings.IndexByte(pattern[open:], '}')
		if len(params) == 0 {
			panic("wire: no parameter for " + pattern[open:end+1])
		}
		b.WriteString(pattern[:open])
		b.WriteString(escapeSegment(params[0]))
		pattern, params = pattern[end+1:], params[1:]
	}
	if len(params) > 0 {
		panic("wire: too many parameters")
	}
	b.WriteString(pattern)
	return b.String()
}

// escapeSegment is url.PathEscape, but also keeps "." and ".." from being taken
// for steps of the path.
func escapeSegment(s string) string {
	switch s {
	case ".":
		return "%2E"
	case "..":
		return "%2E%2E"
	}
	return url.PathEscape(s)
}
