package manage

import "context"

// DeleteExpiredSessions deletes expired sessions now.
func (k *Keystore) DeleteExpiredSessions() { k.deleteExpiredSessions(context.Background()) }
