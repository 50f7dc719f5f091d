package valkey

import (
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// Keys that belong to no partition. Each is its own routing key: the part behind
// "ff:" is the tag to call a function with.
const (
	keyPrefix = "ff:"

	tagConfig      = "config:partitions"
	keyConfig      = keyPrefix + tagConfig
	tagRotation    = "config:rotation"
	tagFeeds       = "config:feeds"
	keyConfigFeeds = keyPrefix + tagFeeds
	keyLanes       = "ff:idx:lanes"
	keyServers     = "ff:idx:servers"
	keyNamespaces  = "ff:idx:namespaces"
)

// partitionTag returns the hash tag of a partition, "{fp:7}". A Store keeps
// those of its own partitions: [Store.tag].
func partitionTag(n uint16) string { return "{fp:" + strconv.Itoa(int(n)) + "}" }

// tag returns the hash tag of one of the store's partitions without allocating.
func (s *Store) tag(n uint16) string {
	if int(n) < len(s.tags) {
		return s.tags[n]
	}
	return partitionTag(n)
}

// What stands behind the routing key of a partition tells a function to leave out
// the feed of leases, or that of signals.
const (
	leasesOff  = "l"
	signalsOff = "s"
)

// routingKey is the one key that a call names: it carries the slot.
func (s *Store) routingKey(tag string) string {
	key := keyPrefix + tag
	if !strings.HasPrefix(tag, "{fp:") {
		return key
	}
	if !s.feedOn(flowfabric.FeedLeases) {
		key += leasesOff
	}
	if !s.feedOn(flowfabric.FeedSignals) {
		key += signalsOff
	}
	return key
}

// waitKey is written before a wait for replicas or the disk; its slot is that of
// the routing key with the tag.
func waitKey(tag string) string {
	if strings.HasPrefix(tag, "{") {
		return "ff:wait:" + tag
	}
	return "ff:wait:{" + keyPrefix + tag + "}"
}

// registryTag is the hash tag of a namespace's workers.
func registryTag(ns flowfabric.Namespace) string { return "{w:" + string(ns) + "}" }

// tagOf returns the hash tag of an execution, a part of its identifier, and
// uuidOf the bare UUID that keys and indexes hold.
func tagOf(id flowfabric.ExecutionID) string {
	if end := strings.IndexByte(string(id), '}'); end > 0 {
		return string(id[:end+1])
	}
	return ""
}

func uuidOf(id flowfabric.ExecutionID) string {
	if end := strings.IndexByte(string(id), '}'); end > 0 && len(id) > end+2 {
		return string(id[end+2:])
	}
	return ""
}

// slotCount is the number of hash slots of a cluster.
const slotCount = 16384

// slotOf is the cluster's slot of a key: CRC16 of its hash tag, or of all of it.
func slotOf(key string) uint16 {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			key = key[open+1 : open+1+n]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return crc % slotCount
}

// crcTable is that of CRC16/XMODEM.
var crcTable = func() (t [256]uint16) {
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
