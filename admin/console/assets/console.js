// This script saves clicks. Every page works without it.
"use strict";
document.documentElement.classList.add("script");

// The back button can restore a page from the browser's cache despite Cache-Control. After signing
// out, no page must be visible and no token must reappear.
addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });

// Times are shown in the viewer's time zone, with UTC on hover. They are converted while the page
// is parsed, before the first paint, so that nothing moves. An element is complete once the parser
// has added a node after it or after one of its ancestors.
const followed = (node) => node && (node.nextSibling || followed(node.parentNode));
const pad = (n) => String(n).padStart(2, "0");
const showTimes = () => {
	for (const t of document.querySelectorAll("time[datetime]:not([title])")) {
		const at = new Date(t.dateTime);
		if (isNaN(at) || document.readyState === "loading" && !followed(t)) continue;
		t.title = t.textContent;
		const seconds = /:\d\d:\d\d /.test(t.title) ? `:${pad(at.getSeconds())}` : "";
		t.textContent = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}${seconds}`;
	}
};
const reading = new MutationObserver(() => {
	showTimes();
	// The element after a form shows that the form is complete.
	for (const form of document.querySelectorAll("form.filters:has(+ *)")) foldFilters(form);
});
reading.observe(document, { childList: true, subtree: true });

document.addEventListener("DOMContentLoaded", () => {
	reading.disconnect();
	showTimes();
	for (const form of document.querySelectorAll("form.filters")) foldFilters(form);

	// Days and times in forms use the viewer's time zone as well.
	const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
	for (const z of document.querySelectorAll("input[name=zone]")) z.value = zone;
	for (const z of document.querySelectorAll(".zone")) z.textContent = `(${zone})`;

	// A list with data-autosubmit leads to another page. One with data-resubmit changes its form: it
	// has the id of the button that sends the form. Choosing with the pointer, Enter and leaving the
	// list for another field apply the value. Arrow keys alone only change it (WCAG 3.2.2).
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
	const keepFocus = (id) => { try { sessionStorage.setItem("apikeys-focus", id); } catch {} };
	addEventListener("submit", (e) => {
		if (e.target.method === "get" || e.submitter?.formNoValidate) keepFocus(document.activeElement.id);
	});
	for (const a of document.querySelectorAll("a[data-refocus]")) a.addEventListener("click", (e) => {
		if (!e.ctrlKey && !e.metaKey && !e.shiftKey) keepFocus(a.id); // else another tab opens
	});
	try {
		const last = sessionStorage.getItem("apikeys-focus");
		sessionStorage.removeItem("apikeys-focus");
		if (last && !document.querySelector("[autofocus]")) document.getElementById(last)?.focus();
	} catch {}

	// A page that shows a token answers a form. Going back to it must not send the form again.
	const shown = document.querySelector("[data-address]");
	if (shown) history.replaceState(null, "", shown.dataset.address);

	showBoxes();

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
	// On a phone the navigation scrolls.
	const current = document.querySelector(".side [aria-current]");
	const bar = current?.closest("ul");
	const showCurrent = () => {
		if (bar && bar.scrollWidth > bar.clientWidth) bar.scrollLeft = current.offsetLeft - (bar.clientWidth - current.offsetWidth) / 2;
	};
	showCurrent();
	addEventListener("resize", showCurrent);

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

	// <p data-hint-of="id of a list"> explains the chosen option.
	for (const hint of document.querySelectorAll("[data-hint-of]")) {
		const list = document.getElementById(hint.dataset.hintOf);
		list.addEventListener("change", () => { hint.textContent = list.selectedOptions[0].dataset.hint ?? ""; });
	}

	const wrong = document.querySelector("[autofocus]");
	if (wrong) wrong.focus();
});

const apple = /Mac|iP/.test(navigator.platform);

// <button data-copy="id of the element to copy">
document.addEventListener("click", async (e) => {
	const b = e.target.closest("[data-copy]");
	if (!b) return;
	const source = document.getElementById(b.dataset.copy);
	const words = b.firstElementChild;
	b.dataset.label ??= words.textContent;
	try {
		await navigator.clipboard.writeText(source.textContent);
		words.textContent = "Copied";
	} catch {
		const range = document.createRange();
		range.selectNodeContents(source);
		getSelection().removeAllRanges();
		getSelection().addRange(range);
		words.textContent = `Selected: press ${apple ? "⌘" : "Ctrl+"}C`;
	}
	setTimeout(() => { words.textContent = b.dataset.label; }, 3000);
});

// <input type=checkbox data-all="id of the group to check"> checks a group of boxes, and [data-count] shows
// how many boxes of a table with data-boxes="their name" are checked.
const boxesOf = (all) => [...document.getElementById(all.dataset.all).querySelectorAll("input[type=checkbox]:not([data-all], :disabled:not(:checked), [name^='connected:'])")];
const showBoxes = () => {
	for (const all of document.querySelectorAll("[data-all]")) {
		const boxes = boxesOf(all);
		const n = boxes.filter((b) => b.checked).length;
		all.checked = n > 0 && n === boxes.length;
		all.indeterminate = n > 0 && n < boxes.length;
	}
	for (const count of document.querySelectorAll("[data-boxes] [data-count]")) {
		const name = count.closest("[data-boxes]").dataset.boxes;
		const group = count.closest(".resource");
		const n = (group ?? count.closest("[data-boxes]")).querySelectorAll(`input[name="${name}"]:checked`).length;
		const words = group ? `${n} selected` : `${n} selected.`;
		count.hidden = group && !n;
		if (count.textContent !== words) count.textContent = words;
	}
};
document.addEventListener("change", (e) => {
	if (e.target.dataset.all) for (const b of boxesOf(e.target)) if (!b.disabled) b.checked = e.target.checked;
	if (e.target.type === "checkbox") showBoxes();
	if (document.querySelector("[name=key]:checked")) document.querySelector(".notice.unselected")?.parentElement.remove();
});

// <button data-part="ids"> sends its form, and only the elements with these ids are replaced by those of the
// answer, so what was typed stays. <details data-load> presses its button when it is opened.
//
// Requests for parts can overlap, such as that for a group of permissions and a search. A late answer
// must not overwrite newer content. A request aborts running requests for its own parts and for parts inside
// them; it does not start while an outer part is loading.
const running = new Set();
const replaces = (a, b) => a.some((x) => b.some((y) => x.contains(y)));
const replaceParts = async (button, delay) => {
	const form = button.form;
	const ids = button.dataset.part.split(" ");
	const request = new AbortController();
	request.parts = ids.map((id) => document.getElementById(id));
	if (request.parts.includes(null)) {
		form.requestSubmit(button); // loads the whole page
		return;
	}
	for (const other of running) {
		if (replaces(request.parts, other.parts)) other.abort();
		else if (replaces(other.parts, request.parts)) return;
	}
	running.add(request);
	const fields = () => {
		const list = new URLSearchParams(new FormData(form));
		list.set(button.name, button.value);
		return list.toString();
	};
	const focused = document.activeElement === button;
	let sent, page;
	try {
		if (delay) await new Promise((done) => setTimeout(done, delay));
		if (request.signal.aborted) return;
		for (const part of request.parts) part.setAttribute("aria-busy", "true");
		do { // once more if something was typed meanwhile
			sent = fields();
			const answer = await fetch(button.formAction, {
				method: "POST", body: new URLSearchParams(sent), signal: request.signal,
			});
			if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
			page = new DOMParser().parseFromString(await answer.text(), "text/html");
			if (request.signal.aborted) return;
			if (ids.some((id) => !page.getElementById(id))) throw new Error("another form");
		} while (fields() !== sent);
	} catch {
		if (!request.signal.aborted) form.requestSubmit(button); // such as for signing in again
		return;
	} finally {
		running.delete(request);
	}
	for (const part of request.parts) {
		part.replaceChildren(...page.getElementById(part.id).childNodes);
		part.removeAttribute("aria-busy");
		if (focused) part.querySelector("tbody input")?.focus();
	}
	showBoxes();
};
document.addEventListener("click", (e) => {
	const button = e.target.closest("button[data-part]");
	if (!button) return;
	e.preventDefault();
	replaceParts(button);
});
document.addEventListener("toggle", (e) => {
	if (!e.target.open || !e.target.hasAttribute("data-load")) return;
	e.target.removeAttribute("data-load");
	const button = e.target.querySelector("button[data-part]");
	if (button) replaceParts(button); // else a search has loaded the content
}, true);

// <input data-find="id of its button"> searches while the visitor types.
{
	const search = (input, delay) => replaceParts(document.getElementById(input.dataset.find), delay);
	document.addEventListener("input", (e) => { if (e.target.dataset.find) search(e.target, 300); });
	document.addEventListener("keydown", (e) => {
		if (e.key !== "Enter" || !e.target.dataset?.find) return;
		e.preventDefault(); // Enter would send the form
		search(e.target);
	});
}

// The page of a change in progress is read again every two seconds. Its live region, which a screen reader
// announces, is only replaced when it has changed.
{
	const watch = async (region) => {
		for (;;) {
			await new Promise((done) => setTimeout(done, 2000));
			const answer = await fetch(location.href).catch(() => null);
			if (!answer) continue; // the network may come back
			if (answer.redirected || !answer.ok) { location.reload(); return; }
			const page = new DOMParser().parseFromString(await answer.text(), "text/html");
			const parts = [region.id, "progress-head", "progress-next"].map((id) => [document.getElementById(id), page.getElementById(id)]);
			if (parts.flat().includes(null)) { location.reload(); return; } // another page
			const now = parts[0][1];
			if (now.dataset.watch === region.dataset.watch) continue;
			for (const [part, content] of parts) part.replaceChildren(...content.childNodes);
			region.dataset.watch = now.dataset.watch;
			document.title = page.title;
			showTimes();
			if (!region.querySelector("progress")) return;
			countDown();
		}
	};
	// <span data-left="milliseconds"> counts down.
	const countDown = () => {
		for (const left of document.querySelectorAll("[data-left]")) {
			const end = performance.now() + Number(left.dataset.left);
			const show = () => {
				const seconds = Math.max(0, Math.ceil((end - performance.now()) / 1000));
				left.textContent = `At most ${seconds} ${seconds === 1 ? "second" : "seconds"} left`;
				if (seconds && left.isConnected) setTimeout(show, 1000);
			};
			show();
		}
	};
	document.addEventListener("DOMContentLoaded", () => {
		const region = document.querySelector("[data-watch]");
		if (!region?.querySelector("progress")) return;
		countDown();
		watch(region);
	});
}

// The theme changes at once, and the server stores it.
document.addEventListener("submit", (e) => {
	if (!e.target.matches(".themes")) return;
	e.preventDefault();
	const theme = e.submitter.value;
	const root = document.documentElement;
	if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
	document.querySelector("meta[name=color-scheme]").content = theme || "light dark";
	for (const b of e.target.querySelectorAll("button")) b.setAttribute("aria-pressed", b === e.submitter);
	fetch(e.target.action, { method: "POST", keepalive: true, body: new URLSearchParams({ theme }) });
});

// Shortcuts. Single-key shortcuts can be turned off (WCAG 2.1.4) and never work in text fields.
{
	const shown = (e) => e.checkVisibility({ visibilityProperty: true });
	const unsaved = () => [...document.querySelectorAll("main form[method=post] :is(input, textarea, select)")].some((f) =>
		f.type === "checkbox" || f.type === "radio" ? f.checked !== f.defaultChecked :
			f.localName === "select" ? [...f.options].some((o) => o.selected !== o.defaultSelected) && [...f.options].some((o) => o.defaultSelected) :
				f.type !== "hidden" && f.value !== f.defaultValue);
	const singleKeys = {
		get on() { try { return localStorage.getItem("apikeys-single-keys") !== "off"; } catch { return true; } },
		set on(on) { try { localStorage.setItem("apikeys-single-keys", on ? "on" : "off"); } catch { /* until the next page */ } },
	};
	const openDialog = (id) => {
		const dialog = document.getElementById(id);
		if (!dialog || dialog.open) return;
		if (id === "help") {
			dialog.querySelector("#single-keys").checked = singleKeys.on;
			if (apple) dialog.querySelector("kbd").textContent = "⌘";
		}
		if (id === "palette") offer("");
		dialog.showModal();
		if (id === "help") dialog.querySelector(".actions button").focus();
	};
	document.addEventListener("click", (e) => {
		const button = e.target.closest("[data-open]");
		if (button) openDialog(button.dataset.open);
		if (e.target.localName === "dialog") e.target.close(); // a click beside it
	});
	document.addEventListener("change", (e) => { if (e.target.id === "single-keys") singleKeys.on = e.target.checked; });
	document.addEventListener("keydown", (e) => {
		if ((e.ctrlKey || e.metaKey) && !e.altKey && !e.shiftKey && e.key.toLowerCase() === "k") {
			if (!document.getElementById("palette")) return;
			e.preventDefault();
			openDialog("palette");
			return;
		}
		if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || !singleKeys.on || document.querySelector("dialog[open]") ||
			e.target.isContentEditable || e.target.matches("input, select, textarea")) return;
		if (e.key === "?") openDialog("help");
		else if (e.key === "/") {
			const field = [...document.querySelectorAll("main input[type=search]")].find(shown);
			if (!field) { openDialog("palette"); } else { field.focus(); field.select(); }
		} else if (e.key === "n" && !unsaved()) document.querySelector("#help [data-key=n]")?.click();
		else return;
		e.preventDefault();
	});

	// The palette offers what the page links to: its sections, actions and tabs.
	const offer = (text) => {
		const words = text.toLowerCase().split(/\s+/).filter(Boolean);
		const found = new Map();
		for (const a of document.querySelectorAll(".side a, #help a, main .actions a, main .tabs a, main .pager a")) {
			const label = a.textContent.trim().replace(/\s+/g, " ");
			if (words.every((w) => label.toLowerCase().includes(w)) && !found.has(label)) found.set(label, () => a.click());
		}
		for (const b of document.querySelectorAll(".themes button")) {
			const label = `Theme: ${b.textContent}`;
			if (words.every((w) => label.toLowerCase().includes(w))) found.set(label, () => b.click());
		}
		const list = document.getElementById("palette-list");
		if (tokenShape.test(text)) { // it must not get into an address
			found.clear();
			found.set("Check this token", () => checkToken(text));
		} else if (text.trim()) {
			const keys = new URL(document.querySelector(".brand").href);
			keys.searchParams.set("q", text.trim());
			found.set(`Search keys for “${text.trim()}”`, () => { location.href = keys; });
		}
		list.replaceChildren(...[...found].slice(0, 20).map(([label, run], i) => {
			const item = document.createElement("li");
			item.role = "option";
			item.id = `palette-${i}`;
			item.textContent = label;
			item.addEventListener("click", () => { list.closest("dialog").close(); run(); });
			return item;
		}));
		select(list.firstElementChild);
	};
	const select = (item) => {
		const list = document.getElementById("palette-list");
		for (const other of list.children) other.setAttribute("aria-selected", other === item);
		const input = list.previousElementSibling;
		if (item) input.setAttribute("aria-activedescendant", item.id); else input.removeAttribute("aria-activedescendant");
		item?.scrollIntoView({ block: "nearest" });
	};
	document.addEventListener("DOMContentLoaded", () => {
		const palette = document.getElementById("palette");
		if (!palette) return;
		const input = palette.querySelector("input");
		const chosen = () => palette.querySelector("[aria-selected=true]");
		palette.addEventListener("close", () => { input.value = ""; });
		input.addEventListener("input", () => offer(input.value));
		input.addEventListener("keydown", (e) => {
			const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[e.key];
			if (e.key === "Enter") chosen()?.click();
			else if (next) select(chosen()?.[next] ?? chosen());
			else return;
			e.preventDefault();
		});
	});
}

// On a phone, the filters of a list are behind a button, unless one is set.
const foldFilters = (form) => {
	const fields = [...form.querySelectorAll(".field:not(.grow, .narrow-only)")];
	if (fields.length < 2 || form.querySelector(".fold")) return;
	const used = fields.some((f) => [...f.querySelectorAll("input, select")].some((i) => i.value));
	const button = document.createElement("button");
	button.type = "button";
	button.className = "fold";
	button.textContent = "More filters";
	const show = (open) => {
		form.classList.toggle("folded", !open);
		button.setAttribute("aria-expanded", open);
	};
	button.addEventListener("click", () => show(form.classList.contains("folded")));
	show(used);
	fields[0].before(button);
};

// A token that was pasted into a search is checked instead: it must not become part of an address,
// which the browser would keep in its history.
const tokenShape = /[a-z0-9]_[0-9A-Za-z]{58}|\.ey[\w-]+\.[\w-]{86}/; // or that of a derived token
const post = (action, fields) => {
	const form = document.createElement("form");
	form.method = "post";
	form.action = action;
	for (const [name, value] of fields) {
		const input = document.createElement("input");
		Object.assign(input, { type: "hidden", name, value });
		form.append(input);
	}
	document.body.append(form);
	form.submit();
	form.remove();
};
const checkToken = (text) => post("/apikeys/check", [["token", text.trim()]]);
addEventListener("submit", (e) => {
	if (e.target.method !== "get") return;
	const typed = [...e.target.elements].find((i) => tokenShape.test(i.value));
	if (!typed) return;
	e.preventDefault();
	const token = typed.value;
	typed.value = "";
	checkToken(token);
});

// If the session has ended when a form is sent, the server keeps short input. The tab keeps the rest until the
// visitor has signed in again. Then the form's page sends it with again=kept, which shows it again, unless an hour
// has passed. The tab keeps each form until the next page, because only that page says whether input is lost.
{
	const kept = {
		get form() { try { return JSON.parse(sessionStorage.getItem("apikeys-form")); } catch { return null; } },
		set form(form) {
			try {
				if (form) sessionStorage.setItem("apikeys-form", JSON.stringify(form));
				else sessionStorage.removeItem("apikeys-form");
			} catch { /* the input is lost, as the page says */ }
		},
	};
	document.addEventListener("submit", (e) => {
		// Not e.target.action, which is a field of that name if the form has one.
		const { href: action, pathname } = new URL(e.target.getAttribute("action") ?? "", location);
		if (e.target.getAttribute("method") !== "post" || !/\/(new|edit)$/.test(pathname)) return;
		const fields = [...new FormData(e.target)];
		if (!fields.some((field) => tokenShape.test(field))) kept.form = { action, fields, until: Date.now() + 3600e3 };
	});
	document.addEventListener("DOMContentLoaded", () => {
		const form = kept.form;
		if (!form) return;
		const lost = document.getElementById("lost");
		if (lost) {
			kept.form = { ...form, lost: true };
			lost.textContent = lost.dataset.kept;
		} else if (!form.lost || !location.pathname.endsWith("/sign-in")) {
			kept.form = null;
			if (form.lost && Date.now() < form.until && new URL(form.action).pathname === location.pathname) {
				post(form.action, [...form.fields, ["again", "kept"]]);
			}
		}
	});
}
