package valkey

import (
	"os"
	"testing"

	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

func TestMain(m *testing.M) { os.Exit(valkeytest.Main(m).Run()) }
