package sqlstore

import (
	"fmt"
	"testing"
)

func TestIDRankOrdersLikeText(t *testing.T) {
	prev := ""
	byRank := make(map[int64]string)
	for part := 0; part <= 65535; part++ {
		rank := idRank(uint16(part))
		if got := partOfRank(rank); got != uint16(part) {
			t.Fatalf("partOfRank(idRank(%d)) = %d", part, got)
		}
		byRank[rank] = fmt.Sprintf("{fp:%d}:", part)
	}
	for rank := int64(0); rank < 161051; rank++ {
		text, ok := byRank[rank]
		if !ok {
			continue
		}
		if text <= prev {
			t.Fatalf("rank %d: %q after %q", rank, text, prev)
		}
		prev = text
	}
}
