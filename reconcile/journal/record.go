package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

// recordVersion is the version of Record that this release writes.
const recordVersion = 1

// Type says what a Record tells.
type Type string

// The types of record.
const (
	TypeAccepted Type = "accepted" // a commit came into force
	TypeRejected Type = "rejected" // a commit cannot be used: Message says why
	TypeBlocked  Type = "blocked"  // a guard stopped a commit: Reason and Message say why
	TypeIntent   Type = "intent"   // a step is about to begin
	TypeResult   Type = "result"   // a step has ended
	TypeExited   Type = "exited"   // a container ended by itself
	TypeHealth   Type = "health"   // a probe or hook found something out: Result is HealthWarning where it is bad
	TypeRan      Type = "ran"      // a Job, or a run of a CronJob, is over: Result, Reason and ExitCode say how
	TypeSettled  Type = "settled"  // nothing is left to do for a commit: Result says how it went
	TypeVerb     Type = "verb"     // somebody asked for something: approve, retry, restart, suspend, resume
	TypeNote     Type = "note"     // something else worth knowing, such as a repaired file
	TypeEntry    Type = "entry"    // a folded entry of history, kept when its records were dropped
)

// HealthWarning is the Result of a TypeHealth that tells of something bad.
const HealthWarning = "Warning"

// Record is one line of the journal.
type Record struct {
	Version  int                `json:"v"`
	Time     time.Time          `json:"time"`
	Type     Type               `json:"type"`
	Commit   string             `json:"commit,omitempty"`
	Revision *manifest.Revision `json:"revision,omitempty"` // with accepted, rejected and blocked
	Name     *manifest.Name     `json:"name,omitempty"`
	Op       plan.Op            `json:"op,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	Message  string             `json:"message,omitempty"`

	Result      string `json:"result,omitempty"`
	Error       string `json:"error,omitempty"`
	ImageDigest string `json:"imageDigest,omitempty"`
	DurationMs  int64  `json:"durationMs,omitempty"`

	ExitCode *int       `json:"exitCode,omitempty"` // with ran; nil: nobody saw it
	Run      *time.Time `json:"run,omitempty"`      // with ran: when the run of a CronJob was due

	Entry *Entry `json:"entry,omitempty"`
}

// encode appends r as one line: eight hexadecimal digits of CRC-32C, a space, JSON, a newline.
func encode(buf []byte, r Record) ([]byte, error) {
	r.Version = recordVersion
	body, err := json.Marshal(r)
	if err != nil {
		return buf, fmt.Errorf("encode journal record: %w", err)
	}
	buf = fmt.Appendf(buf, "%08x ", checksum(body))
	buf = append(buf, body...)
	return append(buf, '\n'), nil
}

// decode reads one line without its newline. A record of a later version is read as far as it is understood.
func decode(line []byte) (Record, bool) {
	if len(line) < 10 || line[8] != ' ' {
		return Record{}, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != checksum(line[9:]) {
		return Record{}, false
	}
	var r Record
	if json.Unmarshal(line[9:], &r) != nil {
		return Record{}, false
	}
	return r, true
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// scan decodes a segment. good is the length up to the end of the last whole record: what lies behind it is a torn
// tail. damaged counts lines before that which are not records.
func scan(data []byte) (records []Record, good, damaged int) {
	pending := 0
	for at := 0; at < len(data); {
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			break
		}
		if r, ok := decode(data[at : at+end]); ok {
			records = append(records, r)
			damaged += pending
			pending = 0
			good = at + end + 1
		} else {
			pending++
		}
		at += end + 1
	}
	return records, good, damaged
}
