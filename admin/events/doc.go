// Package events turns rows of the audit log into events and delivers them to webhooks, as the
// Standard Webhooks specification (https://www.standardwebhooks.com) describes.
//
// types.go has the table of event types, and render.go the content of an event. A [Dispatcher]
// (dispatcher.go) runs a delivery (delivery.go) for each webhook of the configuration. On all nodes
// but one the delivery only watches: the row of the webhook in the database says which node
// delivers, and how far it has come; saver.go stores it. sender.go makes the requests.
//
// Two nodes may deliver at the same time, for example if one was stopped and continues. Each sends
// events in order and none after one that has failed, so a receiver gets every event at least once,
// and the first time in order.
package events
