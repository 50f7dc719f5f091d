package wire

// itemFault is embedded in the items of a batch, each of which answers for its
// own values. (Specification 08, sections 4.1 and 4.3.)
type itemFault struct {
	fault error
}

func (f *itemFault) refuse(err error) { f.fault = err }

// refuseItem notes the fault of item i of n. The list is made with the first one:
// batches without any have none.
func refuseItem(refused []error, n, i int, fault error) []error {
	if fault == nil {
		return refused
	}
	if refused == nil {
		refused = make([]error, n)
	}
	refused[i] = fault
	return refused
}
