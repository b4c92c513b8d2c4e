// Saves clicks. Everything works without it.
"use strict";
document.documentElement.classList.add("script");

// The way back can lead to a page as it was, kept by the browser whatever the page says. Who is signed out since then must not see it, and
// neither may a token come back.
addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });

// Times in the viewer's zone, UTC on hover. They are written while the page is read, before it is painted, so that nothing moves; of one that
// nothing follows yet, the end may still be to come.
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

	// Days and times are typed in the viewer's zone as well.
	const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
	for (const z of document.querySelectorAll("input[name=zone]")) z.value = zone;
	for (const z of document.querySelectorAll(".zone")) z.textContent = `(${zone})`;

	// A choice that takes effect at once.
	for (const s of document.querySelectorAll("[data-autosubmit]")) {
		s.addEventListener("change", () => s.form.requestSubmit());
	}

	// A choice that changes what the form asks: its button sends all that was typed, and the form comes back.
	for (const s of document.querySelectorAll("[data-resubmit]")) {
		s.addEventListener("change", () => s.form.requestSubmit(document.getElementById(s.dataset.resubmit)));
	}

	// <button data-copy="id of what is copied">
	for (const b of document.querySelectorAll("[data-copy]")) {
		const what = document.getElementById(b.dataset.copy);
		const words = b.firstElementChild;
		const label = words.textContent;
		b.addEventListener("click", async () => {
			try {
				await navigator.clipboard.writeText(what.textContent);
				words.textContent = "Copied";
			} catch {
				const range = document.createRange();
				range.selectNodeContents(what);
				getSelection().removeAllRanges();
				getSelection().addRange(range);
				words.textContent = "Selected: press Ctrl+C";
			}
			setTimeout(() => { words.textContent = label; }, 3000);
		});
	}

	// <input type=checkbox data-all="id of the group">
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

	// One click sends a form once; the page that comes back has another button.
	for (const f of document.querySelectorAll("form[method=post]")) {
		f.addEventListener("submit", (e) => {
			if (f.dataset.sent) { e.preventDefault(); return; }
			f.dataset.sent = "yes";
			for (const b of f.querySelectorAll("button[data-busy]")) {
				b.setAttribute("aria-disabled", "true");
				b.textContent = b.dataset.busy;
			}
		});
	}
	const wrong = document.querySelector("[autofocus]");
	if (wrong) wrong.focus();
});
