// This script saves clicks. Every page works without it.
"use strict";
document.documentElement.classList.add("script");

// The back button can restore a page from the browser's cache despite Cache-Control. After signing
// out, no page must be visible and no token must reappear.
addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });

// Times are shown in the viewer's time zone, with UTC on hover. They are converted while the page
// is parsed, before the first paint, so that nothing moves. A time element without a following node
// may still be incomplete.
const pad = (n) => String(n).padStart(2, "0");
const showTimes = () => {
	for (const t of document.querySelectorAll("time[datetime]:not([title])")) {
		const at = new Date(t.dateTime);
		if (isNaN(at) || document.readyState === "loading" && !t.nextSibling && !t.parentNode.nextSibling) continue;
		t.title = t.textContent;
		const seconds = /:\d\d:\d\d /.test(t.title) ? `:${pad(at.getSeconds())}` : "";
		t.textContent = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}${seconds}`;
	}
};
const reading = new MutationObserver(showTimes);
reading.observe(document, { childList: true, subtree: true });

document.addEventListener("DOMContentLoaded", () => {
	reading.disconnect();
	showTimes();

	// Days and times in forms use the viewer's time zone as well.
	const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
	for (const z of document.querySelectorAll("input[name=zone]")) z.value = zone;
	for (const z of document.querySelectorAll(".zone")) z.textContent = `(${zone})`;

	// A list that leads to another page, with data-autosubmit, or that changes its form, with
	// data-resubmit and the id of the button that sends it. It is applied by choosing with the
	// pointer, by Enter and by leaving it for another field. Arrow keys alone only change the value
	// (WCAG 3.2.2).
	for (const s of document.querySelectorAll("[data-autosubmit], [data-resubmit]")) {
		let applied = s.value;
		let pointed = false;
		const apply = () => {
			if (s.value === applied) return;
			applied = s.value;
			s.form.requestSubmit(document.getElementById(s.dataset.resubmit));
		};
		s.addEventListener("pointerdown", () => { pointed = true; });
		s.addEventListener("keydown", (e) => {
			pointed = false;
			if (e.key === "Enter" && s.value !== applied) {
				e.preventDefault();
				apply();
			}
		});
		s.addEventListener("change", () => { if (pointed) apply(); });
		s.addEventListener("blur", (e) => {
			// Applying would take away the page under a click on a link or button.
			if (!e.relatedTarget?.closest("a, button")) setTimeout(apply);
		});
	}

	// The focus returns to the control that changed the page, if the browser stores its id.
	addEventListener("submit", (e) => {
		if (e.target.method !== "get" && !e.submitter?.formNoValidate) return;
		try { sessionStorage.setItem("apikeys-focus", document.activeElement.id); } catch {}
	});
	try {
		const last = sessionStorage.getItem("apikeys-focus");
		sessionStorage.removeItem("apikeys-focus");
		if (last && !document.querySelector("[autofocus]")) document.getElementById(last)?.focus();
	} catch {}

	// A page that shows a token answers a form. Going back to it must not send the form again.
	const shown = document.querySelector("[data-address]");
	if (shown) history.replaceState(null, "", shown.dataset.address);

	// <button data-copy="id of the element to copy">
	for (const b of document.querySelectorAll("[data-copy]")) {
		const source = document.getElementById(b.dataset.copy);
		const words = b.firstElementChild;
		const label = words.textContent;
		b.addEventListener("click", async () => {
			try {
				await navigator.clipboard.writeText(source.textContent);
				words.textContent = "Copied";
			} catch {
				const range = document.createRange();
				range.selectNodeContents(source);
				getSelection().removeAllRanges();
				getSelection().addRange(range);
				const copy = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘C" : "Ctrl+C";
				words.textContent = `Selected: press ${copy}`;
			}
			setTimeout(() => { words.textContent = label; }, 3000);
		});
	}

	// <button data-test="path of the API">, on the page of a new token, calls the API with the token.
	for (const b of document.querySelectorAll("[data-test]")) {
		const out = b.nextElementSibling;
		b.addEventListener("click", async () => {
			out.textContent = "Calling the API…";
			try {
				const r = await fetch(b.dataset.test, {
					headers: { Authorization: `Bearer ${document.getElementById("token").textContent}` },
					cache: "no-store", credentials: "omit", redirect: "manual",
				});
				const answer = r.status ? `${r.status} ${r.statusText}`.trim() : "a redirect";
				out.textContent = r.ok ? `The token works: ${answer}.` : `The API answered ${answer}.`;
			} catch {
				out.textContent = "The API did not answer.";
			}
		});
	}

	// <input type=checkbox data-all="id of the group to check">
	for (const all of document.querySelectorAll("[data-all]")) {
		const boxes = [...document.getElementById(all.dataset.all).querySelectorAll("input[type=checkbox]:not([data-all], :disabled, [name^='connected:'])")];
		const show = () => {
			const n = boxes.filter((b) => b.checked).length;
			all.checked = n > 0 && n === boxes.length;
			all.indeterminate = n > 0 && n < boxes.length;
		};
		all.addEventListener("change", () => { for (const b of boxes) b.checked = all.checked; });
		for (const b of boxes) b.addEventListener("change", show);
		show();
	}

	// A form is sent only once. The page that follows has a new button.
	for (const f of document.querySelectorAll("form[method=post]:not([data-again])")) {
		f.addEventListener("submit", (e) => {
			if (f.dataset.sent) { e.preventDefault(); return; }
			f.dataset.sent = "yes";
			const b = e.submitter;
			if (b?.dataset.busy) {
				b.setAttribute("aria-disabled", "true");
				b.textContent = b.dataset.busy;
			}
		});
	}
	// Lists. The exact times of relative ones are in the viewer's time zone as well.
	for (const t of document.querySelectorAll("time.ago")) {
		const at = new Date(t.dateTime);
		t.title = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}`;
	}
	// Addresses have no empty parameters.
	for (const f of document.querySelectorAll("form[method=get]")) {
		f.addEventListener("formdata", (e) => {
			for (const [name, value] of [...e.formData]) if (value === "") e.formData.delete(name);
		});
	}
	// <form id=bulk> counts the selected rows.
	const bulk = document.getElementById("bulk");
	if (bulk) {
		const words = document.getElementById("bulk-label");
		const before = words.textContent;
		const show = () => {
			const n = document.querySelectorAll("[form=bulk]:checked").length;
			words.textContent = n ? `With the ${n} selected ${n === 1 ? "key" : "keys"}:` : before;
		};
		document.addEventListener("change", show);
		show();
	}

	const wrong = document.querySelector("[autofocus]");
	if (wrong) wrong.focus();
});

// A token that was pasted into a search is checked instead: it must not become part of an address,
// which the browser would keep in its history.
addEventListener("submit", (e) => {
	if (e.target.method !== "get") return;
	const typed = [...e.target.elements].find((i) => /(^|[^a-z0-9])[a-z][a-z0-9_]{0,23}_[0-9A-Za-z]{58}/.test(i.value));
	if (!typed) return;
	e.preventDefault();
	const form = document.createElement("form");
	const token = document.createElement("input");
	form.method = "post";
	form.action = "/apikeys/check";
	token.type = "hidden";
	token.name = "token";
	token.value = typed.value.trim();
	typed.value = "";
	form.append(token);
	document.body.append(form);
	form.submit();
	form.remove();
});
