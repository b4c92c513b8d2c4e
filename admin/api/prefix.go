package api

// TokenPrefixes are the prefixes that tokens of a deployment have.
type TokenPrefixes struct {
	Accepted []string      `json:"accepted" nullable:"false" doc:"In the order of the configuration; the first is for new keys"`
	Others   []OtherPrefix `json:"others" nullable:"false" doc:"Prefixes that the configuration does not accept although live keys have them"`
}

// An OtherPrefix is a prefix that is not accepted.
type OtherPrefix struct {
	Prefix    string `json:"prefix"`
	Keys      int64  `json:"keys" doc:"Keys, neither revoked nor expired, that are refused because their token has this prefix"`
	Abandoned bool   `json:"abandoned" doc:"The configuration says so with abandon_prefix"`
}
