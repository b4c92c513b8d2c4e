package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func Example() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	created, err := keys.MintKey(ctx,
		api.MintRequest{Name: "CI", Namespace: "acme", Access: "read_only"}, "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("token of the build server, not shown again:", created.Token)

	// Once this returns with Complete, no node accepts the key.
	done, err := keys.RevokeKey(ctx, created.Key.ID, api.RevokeRequest{Reason: "only an example"},
		client.Wait(30*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done.Key.Status, done.Propagation.Complete)
}

func ExampleDerive() {
	keyToken := "the-token-of-a-key-0123456789" // from a file or a secret store
	token, err := client.Derive(keyToken, client.Caveats{
		ExpiresAt:   time.Now().Add(15 * time.Minute),
		Permissions: []string{"read"},
		Namespaces:  []string{"default"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("parts of the JWT:", strings.Count(token, ".")+1)
	// Output: parts of the JWT: 3
}

func ExampleWithToken() {
	token := "…" // from a file or a secret store
	keys, err := client.New("https://keys.example.com", client.WithToken(token))
	if err != nil {
		log.Fatal(err)
	}
	self, err := keys.Self(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(self.Permissions)
}

func ExampleClient_AllKeys() {
	keys, err := client.New("unix//run/caddy/admin.sock")
	if err != nil {
		log.Fatal(err)
	}
	for key, err := range keys.AllKeys(context.Background(),
		client.KeyFilter{Namespace: "acme", Status: "active"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(key.ID, key.Name)
	}
}

func ExampleError() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	_, err = keys.MintKey(context.Background(), api.MintRequest{Name: "", Namespace: "nowhere"}, "")
	if refusal, ok := errors.AsType[*client.Error](err); ok {
		for _, field := range refusal.Errors {
			fmt.Println(field.Field, field.Detail)
		}
	}
}

func ExampleIfVersion() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	key, err := keys.FindKey(ctx, "4fYQ0hTz81Lk")
	if err != nil {
		log.Fatal(err)
	}
	patch := api.KeyPatch{Name: api.Some(key.Name + " (old)")}
	if _, err = keys.EditKey(ctx, key.ID, patch,
		client.IfVersion(key.Version)); client.StatusOf(err) == 412 {
		fmt.Println("someone else has changed the key in the meantime")
	}
}

func ExampleClient_NewMemberToken() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	ada, err := keys.CreateMember(ctx, api.MemberRequest{
		Name: "Ada",
		Grants: []api.GrantRequest{{Namespace: "acme", Roles: []string{"developer"},
			Connected: true}},
	})
	if err != nil {
		log.Fatal(err)
	}
	created, err := keys.NewMemberToken(ctx, ada.ID, api.TokenRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("token for Ada, not shown again:", created.Token)

	// Once this returns with Complete, no node accepts the token or a key that acts for Ada.
	done, err := keys.EditMember(ctx, ada.ID, api.MemberPatch{Active: api.Some(false)},
		client.Wait(30*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done.Propagation.Complete)
}

func ExampleClient_AllAudit() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	for row, err := range keys.AllAudit(context.Background(),
		client.AuditFilter{Action: "key.revoke", From: time.Now().Add(-24 * time.Hour)}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(row.At, row.Actor, row.Object)
	}
}

func ExampleClient_AllMembers() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	for member, err := range keys.AllMembers(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(member.ID, member.Name)
	}
}

func ExamplePages() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	pages := client.Pages("", func(cursor string) (api.Roles, error) {
		return keys.ListRoles(ctx, cursor, 20)
	})
	for page, err := range pages {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("a page of", len(page.Items), "roles; more:", page.NextCursor != nil)
	}
}

func ExampleClient_AllUsage() {
	keys, err := client.New("http://localhost:2019")
	if err != nil {
		log.Fatal(err)
	}
	lastWeek := client.UsageSpan{Step: "day", From: time.Now().AddDate(0, 0, -7)}
	for item, err := range keys.AllUsage(context.Background(),
		client.UsageFilter{UsageSpan: lastWeek, Namespace: "acme", GroupBy: "key", Limit: 10}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item.Key, item.Start, item.Allowed, item.Denied)
	}
}
