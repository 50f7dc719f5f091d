#!/usr/bin/env python3
"""A FlowFabric worker in plain Python: the standard library and HTTP, nothing else.

    worker.py [how many executions to run before it stops]

FLOWFABRIC_SERVER names the server, FLOWFABRIC_TOKEN holds a token with scope work.
"""
import base64, json, os, signal, socket, sys, threading, time, urllib.error, urllib.parse, urllib.request, uuid

SERVER = os.environ.get("FLOWFABRIC_SERVER", "http://127.0.0.1:9090")
TOKEN = os.environ.get("FLOWFABRIC_TOKEN", "")
NAMESPACE, LANES, POOL, TTL_MS = "default", ["default"], "python", 15_000
INSTANCE, NONCE = f"{socket.gethostname()}-{os.getpid()}", str(uuid.uuid4())
ME = f"/v1/worker-instances/{INSTANCE}"
HANDLERS = {
    "upper": lambda payload: payload.decode().upper().encode(),
    "divide": lambda payload: json.dumps((lambda a, b: a / b)(*json.loads(payload))).encode(),
}
held = {}  # lease_id -> task
stopping, finished = threading.Event(), threading.Event()


def call(method, path, body=None):
    """One request: (status, document). A problem document comes back like any other; no answer at all is OSError."""
    request = urllib.request.Request(SERVER + path, method=method, data=None if body is None else json.dumps(body).encode(),
                                     headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=45) as answer:
            return answer.status, json.loads(answer.read() or "{}")
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read() or "{}")


def insist(method, path, body=None):
    """Repeats a call that is safe to repeat until the engine has answered it, for a minute."""
    for _ in range(120):
        try:
            status, document = call(method, path, body)
            if status < 400 or not document.get("retryable"):
                return status, document
        except (OSError, ValueError):  # no answer, or half of one
            pass
        time.sleep(0.5)
    return 503, {"code": "store_unavailable", "detail": "no answer within a minute"}


def register():
    status, problem = insist("PUT", ME, {"worker_id": POOL, "namespace": NAMESPACE, "lanes": LANES, "capabilities": ["python"], "instance_nonce": NONCE})
    if status >= 400:
        sys.exit(f"register: {problem['code']}: {problem['detail']}")


def keep():
    """Every third of the TTL: renews all leases in one call, and keeps the registration alive."""
    while not finished.wait(TTL_MS / 3000):
        tasks = list(held.values())
        try:
            if tasks:
                items = [{"execution_id": t["execution_id"], "fence": t["fence"], "lease_ttl_ms": TTL_MS} for t in tasks]
                for task, item in zip(tasks, call("POST", f"/v1/workers/{POOL}/renewals", {"items": items})[1].get("items", [])):
                    task["lost"] = "problem" in item and not item["problem"]["retryable"]
            if call("POST", f"{ME}/heartbeat", {"namespace": NAMESPACE, "instance_nonce": NONCE})[1].get("outcome") == "not_registered":
                register()
        except (OSError, ValueError):
            pass  # two more turns until the lease lapses


def claim():
    """At most one task. A lost answer may have claimed one for us: look it up instead of claiming again."""
    try:
        status, answer = call("POST", f"/v1/workers/{POOL}/tasks", {
            "worker_instance_id": INSTANCE, "namespace": NAMESPACE, "lanes": LANES, "capabilities": ["python"],
            "max_tasks": 1, "lease_ttl_ms": TTL_MS, "wait_ms": 5000})
    except (OSError, ValueError):
        return insist("GET", f"{ME}/leases?namespace={NAMESPACE}")[1].get("items", [])
    if status >= 400:
        print(answer["code"], answer["detail"], file=sys.stderr)
        time.sleep(answer.get("retry_after_ms", 1000) / 1000)
    return answer.get("tasks", [])  # 204: no work


def run(task):
    """Runs one task and ends it: the result completes it, an exception fails the attempt."""
    held[task["fence"]["lease_id"]] = task
    try:
        result = HANDLERS[task["execution_kind"]](base64.b64decode(task["payload"]))
        end, body = "complete", {"payload": base64.b64encode(result).decode(), "payload_encoding": "json"}
    except Exception as e:
        end, body = "fail", {"reason": f"{type(e).__name__}: {e}", "category": "handler_error"}
    if not task.get("lost"):  # else somebody else has it, and the call would be refused
        attempt = f"/v1/executions/{urllib.parse.quote(task['execution_id'], safe='')}/attempts/{task['attempt_index']}"
        status, answer = insist("POST", f"{attempt}/{end}", {"fence": task["fence"], **body})
        print(task["execution_id"], task["execution_kind"], answer.get("outcome") or answer["code"], flush=True)
    del held[task["fence"]["lease_id"]]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    left = int(sys.argv[1]) if len(sys.argv) > 1 else None
    register()
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    while not stopping.is_set() and left != 0:
        for task in claim():
            run(task)
            left = left and left - 1
    finished.set()
    keeper.join()  # or it might register anew
    insist("DELETE", f"{ME}?namespace={NAMESPACE}&reason=shutdown&revoke_leases=true")
