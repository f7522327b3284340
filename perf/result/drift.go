package result

import (
	"fmt"
	"math"
)

// Drift is a repetition in which the machine did not stay the same: the anchor, one small measurement that has nothing of sluice, gave
// another figure after it than before.
type Drift struct {
	Repetition    int     `json:"repetition"` // from 1
	Before        float64 `json:"before_mpps"`
	After         float64 `json:"after_mpps"`
	ChangePercent float64 `json:"change_percent"`
	Note          string  `json:"note"` // the same in words, with what to make of it
}

// driftPercent is from where on the anchors' difference is remarked. Of 49 pairs a second or two apart on a 2-core virtual machine, which are
// noise and not drift, half differed by less than 1.5%, nine of ten by less than 7%, and the farthest by 11%; of 14 with a program of normal
// priority coming and going on the generator's core, the farthest by 6%, as the session goes before it. Below this a reader would be warned
// of nothing. What is above is another machine: virtual ones drift by tens of percent within an hour.
const driftPercent = 15

// drifts compares the anchors before and after each repetition.
func (f *File) drifts() (list []Drift) {
	before, after := f.Find("anchor/before"), f.Find("anchor/after")
	if before == nil || after == nil {
		return nil
	}
	was, is := before.Values("mpps"), after.Values("mpps")
	for i := range min(len(was), len(is)) {
		// Of the larger, so that it is the same share whichever way it went.
		if most := max(was[i], is[i]); most == 0 || 100*math.Abs(is[i]-was[i])/most <= driftPercent {
			continue
		}
		d := Drift{Repetition: i + 1, Before: was[i], After: is[i]}
		if was[i] > 0 {
			d.ChangePercent = 100 * (is[i]/was[i] - 1)
		}
		d.Note = fmt.Sprintf("repetition %d: the machine was not the same at its end, the anchor went from %s to %s Mpps (%+.0f%%). Ratios within the repetition still stand, its absolute figures do not; run again on a quiet machine",
			d.Repetition, FormatValue(d.Before), FormatValue(d.After), d.ChangePercent)
		list = append(list, d)
	}
	return list
}
