package monitor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// StatusRange is a range of HTTP status codes, both ends included.
type StatusRange struct{ First, Last int }

// String is "200" or "200-399".
func (r StatusRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// ParseStatus reads codes and ranges, such as "200-299,304".
func ParseStatus(text string) ([]StatusRange, error) {
	var list []StatusRange
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		r := StatusRange{statusCode(first), statusCode(last)}
		if err := r.validate(); err != nil {
			return nil, fmt.Errorf("%q: want codes and ranges from 100 to 599, such as 200-299,304", shorten(item))
		}
		list = append(list, r)
	}
	return list, nil
}

// statusCode is 0 for what is no code.
func statusCode(text string) int {
	if len(text) != 3 || strings.Trim(text, "0123456789") != "" {
		return 0
	}
	n, _ := strconv.Atoi(text)
	return n
}

func (r StatusRange) validate() error {
	if r.First < 100 || r.Last > 599 || r.First > r.Last {
		return fmt.Errorf("status %v is not a range from 100 to 599", r)
	}
	return nil
}

func statusIn(code int, set []StatusRange) bool {
	return slices.ContainsFunc(set, func(r StatusRange) bool { return r.First <= code && code <= r.Last })
}

// FormatStatus is the form that ParseStatus reads.
func FormatStatus(set []StatusRange) string {
	items := make([]string, len(set))
	for i, r := range set {
		items[i] = r.String()
	}
	return strings.Join(items, ",")
}
