package valkeytest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are taken below the range that the kernel takes the ports of outgoing
// connections from, so that a server can be restarted at its port.
const lowestPort, highestPort = 15000, 31999

// ports are those of this process's servers, running or not.
var ports = struct {
	sync.Mutex
	taken map[int]bool
}{taken: make(map[int]bool)}

// takePort finds a free port and keeps it for a server.
func takePort() (int, error) {
	for range 1000 {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		if reservePort(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port found")
}

func reservePort(port int) bool {
	ports.Lock()
	defer ports.Unlock()
	if ports.taken[port] {
		return false
	}
	l, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return false
	}
	_ = l.Close()
	ports.taken[port] = true
	return true
}

// returnPorts gives ports back that no server will be restarted at.
func returnPorts(used ...int) {
	ports.Lock()
	defer ports.Unlock()
	for _, port := range used {
		delete(ports.taken, port)
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
