package remote

import (
	"slices"

	"github.com/flowfabric/flowfabric"
)

// visible is the set of namespaces whose rows a caller may see; nil means all.
type visible []flowfabric.Namespace

// visibleIn turns a namespace and a list of allowed ones into the filter to send
// and what is to be dropped here, nil when the filter says it all.
func visibleIn(ns flowfabric.Namespace, allowed []flowfabric.Namespace) (send flowfabric.Namespace, keep visible) {
	named := ns != "" && ns != flowfabric.AnyNamespace
	switch {
	case allowed == nil, named && slices.Contains(allowed, ns):
		return ns, nil
	case !named && len(allowed) == 1:
		return allowed[0], nil
	}
	return ns, allowed
}

// only drops the rows of namespaces that may not be seen.
func only[R any](rows []R, keep visible, of func(R) flowfabric.Namespace) []R {
	if keep == nil {
		return rows
	}
	return slices.DeleteFunc(rows, func(r R) bool { return !slices.Contains(keep, of(r)) })
}

// oneNamespace is visibleIn where no row can be dropped here.
func oneNamespace(op string, ns flowfabric.Namespace, allowed []flowfabric.Namespace) (flowfabric.Namespace, error) {
	send, keep := visibleIn(ns, allowed)
	if keep != nil {
		return "", unsupported(op, "a list of namespaces can't be sent; the token decides what is seen")
	}
	return send, nil
}
