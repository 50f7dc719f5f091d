package valkeytest

import (
	"errors"
	"fmt"
	"strconv"
)

// MoveSlots moves slots with their keys from one primary to another, while
// clients use both, and returns when all nodes know.
func (c *Cluster) MoveSlots(from, to *Server, slots ...int) {
	c.tb.Helper()
	for _, slot := range slots {
		err := c.BeginMove(from, to, slot)
		for moved := 1; err == nil && moved > 0; {
			moved, err = c.MoveKeys(from, to, slot, 100)
		}
		if err == nil {
			err = c.FinishMove(from, to, slot)
		}
		if err != nil {
			c.tb.Errorf("move slot %d: %v", slot, err)
			return
		}
	}
	if err := until(formLimit, func() error { return c.moved(to, slots) }); err != nil {
		c.tb.Errorf("move slots: %v", err)
	}
}

// BeginMove declares that a slot is on its way: from now on one node redirects
// with ASK what it does not have, and the other serves what is asked so.
func (c *Cluster) BeginMove(from, to *Server, slot int) error {
	number := strconv.Itoa(slot)
	if _, err := to.CLI("CLUSTER", "SETSLOT", number, "IMPORTING", from.n.id); err != nil {
		return err
	}
	_, err := from.CLI("CLUSTER", "SETSLOT", number, "MIGRATING", to.n.id)
	return err
}

// MoveKeys moves at most so many keys of a slot on its way, and returns how many
// there were.
func (c *Cluster) MoveKeys(from, to *Server, slot, most int) (moved int, err error) {
	keys, err := from.CLI("CLUSTER", "GETKEYSINSLOT", strconv.Itoa(slot), strconv.Itoa(most))
	if err != nil {
		return 0, err
	}
	list, _ := keys.([]any)
	if len(list) == 0 {
		return 0, nil
	}
	command := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.Port()), "", "0", "10000"}
	if user, password := to.n.options.login(); password != "" {
		command = append(command, "AUTH2", user, password)
	}
	command = append(command, "KEYS")
	for _, key := range list {
		text, _ := key.(string)
		command = append(command, text)
	}
	_, err = from.CLI(command...)
	return len(list), err
}

// FinishMove gives a slot without keys to its new owner, which first learns of
// it.
func (c *Cluster) FinishMove(from, to *Server, slot int) error {
	tell := func(s *Server) error {
		if _, err := s.CLI("CLUSTER", "SETSLOT", strconv.Itoa(slot), "NODE", to.n.id); err != nil {
			return fmt.Errorf("%s: %w", s.Addr(), err)
		}
		return nil
	}
	if err := errors.Join(tell(to), tell(from)); err != nil {
		return err
	}
	v, err := c.view()
	if err != nil {
		return err
	}
	for _, id := range v.primaries {
		s := c.byID(id)
		if s == from || s == to || !s.Running() {
			continue
		}
		if err := tell(s); err != nil {
			return err
		}
	}
	return nil
}

// moved returns nil when every living node knows the new owner of slots.
func (c *Cluster) moved(to *Server, slots []int) error {
	for _, s := range c.nodes {
		if !s.Running() {
			continue
		}
		conn, err := s.n.dial()
		if err != nil {
			return err
		}
		v, err := viewOf(conn)
		_ = conn.Close()
		if err != nil {
			return err
		}
		for _, slot := range slots {
			if v.owner(slot) != to.n.id {
				return fmt.Errorf("%s does not know of the new owner of slot %d", s.Addr(), slot)
			}
		}
	}
	return nil
}
