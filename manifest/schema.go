package manifest

import _ "embed" // for schema.json

//go:embed schema.json
var schema string

// Schema returns the JSON Schema (draft-07, which editors understand best) of every kind of manifest. It is made from
// the types that the decoder fills; a test keeps the two in step.
func Schema() []byte { return []byte(schema) }
