package api

// A RateLimit bounds how often requests are accepted. In any time, at most Burst requests are, plus
// as many as Requests in Per give for that time.
type RateLimit struct {
	_ struct{} `nullable:"true"`

	Requests  int64  `json:"requests,omitempty" minimum:"1" maximum:"100000000" example:"100"`
	Per       string `json:"per,omitempty" doc:"A Go duration from 1s to 24h" example:"1s"`
	Burst     int64  `json:"burst,omitempty" minimum:"1" maximum:"100000000" doc:"How many requests may come at once. Default: requests" example:"200"`
	Shadow    bool   `json:"shadow,omitempty" doc:"Whether requests beyond the limit are only counted, not refused"`
	Unlimited bool   `json:"unlimited,omitempty" doc:"Whether there is no limit, whatever the plan says. Excludes the other members"`
}

// A Quota bounds the units that requests use in each calendar period, in UTC.
type Quota struct {
	_ struct{} `nullable:"true"`

	Requests  int64  `json:"requests,omitempty" minimum:"1" maximum:"999999999999999" doc:"Units in a period: one for each request, unless the operation costs more" example:"100000"`
	Per       string `json:"per,omitempty" enum:"hour,day,month"`
	Shadow    bool   `json:"shadow,omitempty" doc:"Whether requests beyond the quota are only counted, not refused"`
	Unlimited bool   `json:"unlimited,omitempty" doc:"Whether there is no quota, whatever the plan says. Excludes the other members"`
}
