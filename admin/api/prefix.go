package api

// TokenPrefixes lists the prefixes of the deployment's tokens.
type TokenPrefixes struct {
	Accepted []string      `json:"accepted" nullable:"false" doc:"The accepted prefixes in the order of the configuration; new keys get the first"`
	Others   []OtherPrefix `json:"others" nullable:"false" doc:"Prefixes of valid keys that the configuration does not accept"`
}

// An OtherPrefix is a prefix that the configuration does not accept.
type OtherPrefix struct {
	Prefix    string `json:"prefix"`
	Keys      int64  `json:"keys" doc:"The number of keys, neither revoked nor expired, that are refused because of this prefix"`
	Abandoned bool   `json:"abandoned" doc:"Whether the configuration lists it under abandon_prefix"`
}
