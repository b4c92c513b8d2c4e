package manage

import "context"

// ForgetSessions removes those that are over, as the node does from time to time.
func (k *Keystore) ForgetSessions() { k.deleteExpiredSessions(context.Background()) }
