package api

// A RateLimit bounds the number of accepted requests: in any time t, at most Burst +
// t·Requests/Per.
type RateLimit struct {
	_ struct{} `nullable:"true"`

	Requests  int64  `json:"requests,omitempty" minimum:"1" maximum:"100000000" example:"100"`
	Per       string `json:"per,omitempty" doc:"A Go duration from 1s to 24h" example:"1s"`
	Burst     int64  `json:"burst,omitempty" minimum:"1" maximum:"100000000" doc:"The number of requests that may come at once. Default: requests" example:"200"`
	Shadow    bool   `json:"shadow,omitempty" doc:"Whether requests beyond the limit are counted instead of refused"`
	Unlimited bool   `json:"unlimited,omitempty" doc:"Whether there is no limit, even if the plan has one. Excludes the other members"`
}

// A Quota bounds the units that requests use in each calendar period, in UTC.
type Quota struct {
	_ struct{} `nullable:"true"`

	Requests  int64  `json:"requests,omitempty" minimum:"1" maximum:"999999999999999" doc:"Units in a period: one for each request, unless the operation costs more" example:"100000"`
	Per       string `json:"per,omitempty" enum:"hour,day,month"`
	Shadow    bool   `json:"shadow,omitempty" doc:"Whether requests beyond the quota are counted instead of refused"`
	Unlimited bool   `json:"unlimited,omitempty" doc:"Whether there is no quota, even if the plan has one. Excludes the other members"`
}
