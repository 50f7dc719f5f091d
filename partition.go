package flowfabric

import "github.com/google/uuid"

// PartitionConfig is the published partitioning of a deployment. It is fixed at
// the first start and kept in the store. (Specification 07, section 2.)
type PartitionConfig struct {
	NumFlowPartitions   int `json:"num_flow_partitions"`
	NumBudgetPartitions int `json:"num_budget_partitions"`
	NumQuotaPartitions  int `json:"num_quota_partitions"`
}

// DefaultPartitionConfig is 256 flow, 32 budget and 32 quota partitions.
func DefaultPartitionConfig() PartitionConfig {
	return PartitionConfig{NumFlowPartitions: 256, NumBudgetPartitions: 32, NumQuotaPartitions: 32}
}

// Validate checks that every count lies in 1..65535.
func (c PartitionConfig) Validate() error {
	for _, f := range []struct {
		name string
		n    int
	}{
		{"num_flow_partitions", c.NumFlowPartitions},
		{"num_budget_partitions", c.NumBudgetPartitions},
		{"num_quota_partitions", c.NumQuotaPartitions},
	} {
		if f.n < 1 || f.n > 65535 {
			return InvalidInput(f.name, "is %d, must be 1..65535", f.n)
		}
	}
	return nil
}

// flows is the count of flow partitions, the default for the zero value.
func (c PartitionConfig) flows() uint16 {
	if c.NumFlowPartitions < 1 {
		return uint16(DefaultPartitionConfig().NumFlowPartitions)
	}
	return uint16(c.NumFlowPartitions)
}

// StandaloneExecutionID returns the identifier of a standalone execution with
// the given UUID on a lane: partition = CRC16(lane bytes, 16 UUID bytes) mod
// NumFlowPartitions. Equal inputs give equal identifiers.
func (c PartitionConfig) StandaloneExecutionID(lane LaneID, u uuid.UUID) ExecutionID {
	crc := crc16(0, []byte(lane))
	crc = crc16(crc, u[:])
	return MakeExecutionID(crc%c.flows(), u)
}

// FlowExecutionID returns the identifier of an execution with the given UUID
// placed on the flow's partition.
func (c PartitionConfig) FlowExecutionID(flow FlowID, u uuid.UUID) ExecutionID {
	return MakeExecutionID(c.FlowPartition(flow), u)
}

// FlowPartition returns CRC16(flow UUID, 16 bytes) mod NumFlowPartitions.
func (c PartitionConfig) FlowPartition(flow FlowID) uint16 {
	f, err := uuid.Parse(string(flow))
	if err != nil {
		return 0
	}
	return crc16(0, f[:]) % c.flows()
}

// LanePartition returns CRC16(lane bytes) mod NumFlowPartitions: the partition a
// lane is counted to when collisions of lanes are looked for.
func (c PartitionConfig) LanePartition(lane LaneID) uint16 {
	return crc16(0, []byte(lane)) % c.flows()
}

// NewExecutionID mints an identifier for a standalone execution on a lane. The
// UUID is time-ordered (version 7), so that identifiers of one partition sort
// by age.
func (c PartitionConfig) NewExecutionID(lane LaneID) ExecutionID {
	return c.StandaloneExecutionID(lane, newExecutionUUID())
}

// NewExecutionIDOn mints an identifier for a standalone execution on a lane that
// lies on the wanted partition: the last byte of the UUID is chosen so that the
// standalone rule gives it. So a store can keep what is created together on few
// pages. Where no choice of that byte leads there, which needs a partition count
// that does not divide 256, the identifier lies wherever the rule puts it.
func (c PartitionConfig) NewExecutionIDOn(lane LaneID, partition uint16) ExecutionID {
	u := newExecutionUUID()
	crc := crc16(crc16(0, []byte(lane)), u[:15])
	for range 256 {
		if crc16(crc, u[15:])%c.flows() == partition {
			return MakeExecutionID(partition, u)
		}
		u[15]++
	}
	return c.StandaloneExecutionID(lane, u)
}

// NewFlowExecutionID mints an identifier for an execution placed with a flow.
func (c PartitionConfig) NewFlowExecutionID(flow FlowID) ExecutionID {
	return c.FlowExecutionID(flow, newExecutionUUID())
}

func newExecutionUUID() uuid.UUID {
	u, err := uuid.NewV7()
	if err != nil { // the random source failed; a version 4 UUID would fail alike
		panic("flowfabric: no randomness: " + err.Error())
	}
	return u
}

// crc16 is CRC16/XMODEM (polynomial 0x1021, initial 0), continued from crc.
func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc = crc<<8 ^ crc16Table[byte(crc>>8)^b]
	}
	return crc
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i) << 8
		for range 8 {
			if c&0x8000 != 0 {
				c = c<<1 ^ 0x1021
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()
