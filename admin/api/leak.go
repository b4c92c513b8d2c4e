package api

// A LeakReport says where a token was found, in the format of GitHub's secret scanning partner
// program. Other fields are ignored.
type LeakReport struct {
	_      struct{} `additionalProperties:"true"`
	Token  string   `json:"token" writeOnly:"true" doc:"The token"`
	Type   string   `json:"type,omitempty" writeOnly:"true" minLength:"0" doc:"The name of the pattern that matched"`
	URL    string   `json:"url,omitempty" writeOnly:"true" minLength:"0" doc:"Where the token was found"`
	Source string   `json:"source,omitempty" writeOnly:"true" minLength:"0" doc:"The kind of place, such as commit"`
}

// A LeakLabel says whether a reported token belongs or belonged to a key or a member.
type LeakLabel struct {
	TokenHash string `json:"token_hash" doc:"The SHA-256 of the token, in hexadecimal"`
	TokenType string `json:"token_type" doc:"The type in the report"`
	Label     string `json:"label" enum:"true_positive,false_positive"`
}
