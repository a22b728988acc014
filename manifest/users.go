package manifest

import (
	"encoding/json"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// UserRef is a user or group: its number, or its name in the image. Its JSON is a number for a number.
type UserRef string

// ID returns the number, where it is one.
func (u UserRef) ID() (id int64, ok bool) {
	id, err := strconv.ParseInt(string(u), 10, 64)
	return id, err == nil && strconv.FormatInt(id, 10) == string(u)
}

// MarshalJSON writes a number as one, and a name as a text.
func (u UserRef) MarshalJSON() ([]byte, error) {
	if _, ok := u.ID(); ok {
		return []byte(u), nil
	}
	return json.Marshal(string(u))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (u *UserRef) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(u))
	}
	var id int64
	if err := json.Unmarshal(b, &id); err != nil {
		return err
	}
	*u = UserRef(strconv.FormatInt(id, 10))
	return nil
}

func (u *UserRef) decodeNode(d *decoder, n *yaml.Node) {
	const want = "the number or the name of a user or group"
	text, ok := d.scalar(n, want)
	if ok && text == "" {
		d.problem(n, "want %s, not an empty text", want)
	}
	*u = UserRef(text)
}

// user wants a number, or a name as useradd(8) takes it: whatever else stands in an image's /etc/passwd has a number too.
func (c *checker) user(p place, u UserRef) {
	if u == "" {
		return
	}
	if id, ok := u.ID(); ok {
		c.id(p, id)
		return
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	if !strings.Contains(letters, string(u[:1])) || strings.Trim(string(u), letters+"0123456789-.$") != "" || len(u) > 256 {
		c.problem(p, "want a number such as 1000, or a name of letters, digits, _, - and ., not %s", quote(string(u)))
	}
}
