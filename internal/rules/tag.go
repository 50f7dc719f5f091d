package rules

import (
	"maps"

	"github.com/flowfabric/flowfabric"
)

// ValidateSetTags checks a map of tags to be set: not empty, well-formed keys,
// values of at most 4096 bytes.
func ValidateSetTags(tags map[string]string) error {
	if len(tags) == 0 {
		return flowfabric.InvalidInput("tags", "must not be empty").With("reason", "empty")
	}
	if err := validateTags(tags); err != nil {
		return err
	}
	if len(tags) > flowfabric.MaxTags {
		return tooManyTags(len(tags))
	}
	return nil
}

// SetTags upserts tags in any phase; the others stay. At most 128 remain.
// (Specification 01, section 8.9.)
func SetTags(s *State, tags map[string]string, now flowfabric.Millis) (Effects, error) {
	if err := ValidateSetTags(tags); err != nil {
		return Effects{}, err
	}
	merged := make(map[string]string, len(s.Tags)+len(tags))
	maps.Copy(merged, s.Tags)
	maps.Copy(merged, tags)
	if len(merged) > flowfabric.MaxTags {
		return Effects{}, tooManyTags(len(merged))
	}
	t := begin(s, now)
	s.Tags = merged
	return t.finish()
}

// RemoveTag reports whether the tag was there; an absent one writes nothing.
func RemoveTag(s *State, key string, now flowfabric.Millis) (removed bool, fx Effects, err error) {
	if err := ValidateTagKey(key); err != nil {
		return false, Effects{}, err
	}
	if _, ok := s.Tags[key]; !ok {
		return false, Effects{}, nil
	}
	t := begin(s, now)
	rest := maps.Clone(s.Tags)
	delete(rest, key)
	s.Tags = rest
	fx, err = t.finish()
	return err == nil, fx, err
}
