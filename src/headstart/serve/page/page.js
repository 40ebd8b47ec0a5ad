"use strict";
// Pictures that somebody drops, pastes, chooses or takes → POST /predict, one request each → a card each. The bytes are
// sent as they are, since other bytes would get other probabilities. Names and labels are text and never become HTML.

const AT_ONCE = 4; // requests, so that the first answers come early
const TRIES = 6; // of a picture when the server is busy
const MOST_LOSSES = 3; // of the connection, of one picture
const LONGEST_WAIT = 30; // seconds between two of them
const THUMBNAIL = 480; // pixels of the longer side
const MOST_PIXELS = 90e6; // of a picture that a preview is made of
const MOST_NAMED = 8; // classes of a set, until the others are asked for
const LONGEST_NAME = 120; // that is shown; the CSV has all of it
const MEGABYTE = 1e6;

const find = (id) => document.getElementById(id);
const number = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const at = (path) => new URL(path, location.origin + location.pathname); // without a name and password before the host

let server = "loading"; // or "ready" or "gone"; pictures wait while it is not ready
let connecting = false;
let model = null;
let pictures = [];
let waiting = [];
let running = 0;
let added = 0;
let counting = false;
let noHeat = ""; // why this server draws no heat maps
let explaining = Promise.resolve(); // one after the other
let previewing = Promise.resolve();

// Text ---------------------------------------------------------------------------------------------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

// As the report shows names: with nothing that turns the rest of its line around, and not endless.
const printable = (name) => name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\ufffd");

function clean(name) {
  const shown = printable(name);
  return shown.length > LONGEST_NAME ? `${shown.slice(0, LONGEST_NAME - 1)}…` : shown;
}

function plain(label) {
  return clean(model?.distinct ? label.replaceAll("_", " ") : label);
}

function percent(share, unit = "\u00a0%", [over, under] = [">\u00a0", "<\u00a0"]) {
  if (share > 0.995 && share < 1) return `${over}99${unit}`;
  if (share < 0.005 && share > 0) return `${under}1${unit}`;
  return `${Math.round(100 * share)}${unit}`;
}

const spoken = (share) => percent(share, " percent", ["more than ", "less than "]);

function bytes(count) {
  return count >= MEGABYTE ? `${Math.round(count / 1e5) / 10} MB` : `${Math.ceil(count / 1000)} kB`;
}

let unsaid = [];
function say(text) {
  if (unsaid.push(text) > 1) return;
  setTimeout(() => {
    const more = unsaid.length > 5 ? ` And ${unsaid.length - 5} more.` : "";
    find("status").textContent = `${unsaid.slice(0, 5).join(". ")}.${more}`;
    unsaid = [];
  }, 700);
}

// The server ---------------------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: there was no answer at all
    this.passing = ![413, 415, 422, 501].includes(status); // it is not the picture's fault
  }
}

function pause(response, signal) {
  const asked = Number(response.headers.get("retry-after")) || 2;
  const seconds = Math.min(LONGEST_WAIT, asked) * (1 + Math.random() / 2); // not all at the same moment
  const over = new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => resolve(clearTimeout(timer)));
  });
  return [Math.ceil(seconds), over];
}

async function readable(file) {
  return file.slice(0, 1).arrayBuffer().then(() => true, () => false);
}

// Return what a route answers to a picture; `tell` hears why it takes longer.
async function ask(path, file, signal, tell) {
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      const headers = { "content-type": "application/octet-stream" };
      response = await fetch(at(path), { method: "POST", headers, body: file, signal });
      if (response.ok) return await response.json();
    } catch {
      if (!(await readable(file))) throw new Refusal("The file was moved or changed meanwhile. Choose it again.", 422);
      throw new Refusal("The server cannot be reached.", 0);
    }
    const problem = await response.json().catch(() => ({}));
    const why = problem.predictions?.[0]?.error || problem.detail || `The server answered ${response.status}.`;
    if (![503, 504].includes(response.status) || tries === TRIES) throw new Refusal(why, response.status);
    const [seconds, over] = pause(response, signal);
    tell(`The server is busy. Asking again in ${number(seconds, "second")}, try ${tries + 1} of ${TRIES}.`);
    await over;
    tell("Being looked at …");
  }
}

function notice(text, again = false) {
  const [words, button] = find("notice").children;
  if (text && words.textContent !== text) say(text);
  words.textContent = text;
  button.hidden = !again;
  find("notice").hidden = !text;
}

function gone(why) {
  server = "gone";
  notice(`${why} The pictures are kept.`, true);
}

async function connect() {
  if (connecting) return;
  connecting = true;
  server = "loading";
  find("notice").children[1].hidden = true; // it is tried already
  while (server === "loading") {
    try {
      const response = await fetch(at("model"));
      const told = await response.json();
      if (response.ok) {
        describe(told);
        server = "ready";
        if (!find("notice").hidden) say("The server answers");
        notice("");
      } else if (response.status === 503) {
        notice("The model is being loaded. Pictures can be added already.");
        await pause(response)[1];
      } else gone(told.detail);
    } catch {
      gone("The server cannot be reached.");
    }
  }
  connecting = false;
  if (server !== "ready") return;
  pictures.filter((one) => one.open && one.state === "said").forEach(explain); // those that got no heat map
  pump();
}

function describe(told) {
  const { classes, limits, refuses } = told;
  model = told;
  noHeat = "";
  model.distinct = new Set(classes.map((name) => name.replaceAll("_", " "))).size === classes.length;
  document.title = `${clean(told.name)} · Headstart`;
  find("model-name").textContent = clean(told.name);
  find("promise").textContent = `It tells which of ${number(classes.length, "class", "classes")} is on it, and how sure it is. ${
    refuses ? "If a picture looks like none of them, it says that." : "It names one of them whatever is on the picture."
  }`;
  find("classes").replaceChildren(...classes.map((name) => make("li", "", make("bdi", "", plain(name)))));
  const networks = told.networks.map((one) => `${one.name} at ${one.size} pixels`).join(", ");
  const facts = {
    "Can say “none of these”": refuses ? "yes" : "no",
    "A picture may have": bytes(limits.most_bytes),
    "Looks with": networks,
    "Runs on": told.engine,
    "Trained": (told.created ?? "").slice(0, 10),
    "Fingerprint": told.digest.slice(0, 12),
  };
  find("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([what, fact]) => (fact ? [make("dt", "", what), make("dd", "", fact)] : [])),
  );
  find("known").hidden = false;
  filter();
}

function filter() {
  const wanted = find("find").value.trim().toLowerCase().replaceAll("_", " ");
  let shown = 0;
  for (const row of find("classes").children) {
    row.hidden = !row.textContent.toLowerCase().replaceAll("_", " ").includes(wanted);
    shown += row.hidden ? 0 : 1;
  }
  const every = number(model.classes.length, "class", "classes");
  find("counted").textContent = wanted ? `${shown.toLocaleString("en")} of ${every}` : every;
  find("classes").hidden = shown === 0;
}

// Pictures -----------------------------------------------------------------------------------------------------------

// Add files, the newest lot on top, where whoever takes one photograph after the other sees its answer.
function add(files) {
  const lot = [...files].map((file) => begin(file, file.path || file.name || "picture"));
  if (lot.length === 0) return notice("There was no file in it. A picture of another page can be copied there and pasted here.");
  if (server === "ready") notice("");
  pictures.push(...lot);
  find("cards").prepend(...lot.map((one) => one.card));
  if (!pictures.some((one) => one.open)) toggle(lot[0], true);
  lot.forEach(enter);
  say(`${number(lot.length, "picture")} added`);
  if (server === "gone") connect();
  pump();
}

function begin(file, name) {
  const one = { file, name, shown: clean(name), state: "waiting", why: "Waiting …", abort: new AbortController() };
  const title = make("bdi", "", one.shown);
  title.id = `name-${(added += 1)}`;
  title.title = printable(name);
  one.look = make("div", "look");
  one.body = make("div", "body");
  one.inside = make("div", "inside");
  one.inside.id = `inside-${added}`;
  one.inside.hidden = true;
  const button = (className, text, act) => {
    const made = make("button", className, text);
    made.type = "button";
    made.addEventListener("click", act);
    made.setAttribute("aria-describedby", title.id);
    return made;
  };
  one.remove = button("remove", "✕", () => remove(one));
  one.remove.title = "Remove";
  one.remove.setAttribute("aria-label", "Remove");
  one.reason = button("reason", "Why?", () => toggle(one, !one.open));
  one.reason.setAttribute("aria-expanded", "false");
  one.reason.setAttribute("aria-controls", one.inside.id);
  one.again = button("again", "Try again", () => {
    one.remove.focus();
    enter(one);
    if (server === "gone") connect();
    pump();
  });
  const head = make("div", "head", make("h3", "", title), one.remove);
  const told = make("div", "told", head, one.body, make("div", "acts", one.reason, one.again));
  one.card = make("li", "card", one.look, told, one.inside);
  previewing = previewing.then(() => preview(one));
  return one;
}

function enter(one) {
  const { size } = one.file;
  const most = model?.limits.most_bytes;
  if (size === 0) fail(one, new Refusal("The file is empty.", 422));
  else if (size > most) fail(one, new Refusal(`It has ${bytes(size)}; the server takes at most ${bytes(most)}.`, 413));
  else {
    Object.assign(one, { state: "waiting", why: "Waiting …" });
    waiting.push(one);
    show(one);
  }
}

function pump() {
  while (server === "ready" && running < AT_ONCE && waiting.length) look(waiting.shift());
}

async function look(one) {
  if (one.file.size > model.limits.most_bytes) return enter(one); // it came before the limits were known
  running += 1;
  tell(one, "Being looked at …");
  try {
    const answer = await ask("predict", one.file, one.abort.signal, (why) => tell(one, why));
    if (answer.model !== model.digest) connect(); // another model is served by now
    Object.assign(one, { state: "said", said: answer.predictions[0] });
    show(one);
    say(`${one.shown}: ${inWords(one.said)}`);
    if (one.open) explain(one);
  } catch (error) {
    if (!one.abort.signal.aborted) lost(one, error);
  } finally {
    running -= 1;
    pump();
  }
}

// A picture that gets no answer although the server is there again must not hold up the others.
function lost(one, error) {
  one.losses = error.status === 0 ? (one.losses ?? 0) + 1 : MOST_LOSSES;
  if (one.losses >= MOST_LOSSES) return fail(one, error);
  Object.assign(one, { state: "waiting", why: "Waiting for the server …" });
  show(one);
  waiting.push(one);
  gone(error.message);
}

function fail(one, error) {
  Object.assign(one, { state: "failed", why: error.message, passing: error.passing, open: false });
  show(one);
  say(`${one.shown}: ${one.passing ? "no answer" : "cannot be used"}, ${error.message}`);
}

function tell(one, why) {
  Object.assign(one, { state: "asked", why });
  show(one);
}

function remove(one) {
  const cards = [...find("cards").children];
  const next = cards[cards.indexOf(one.card) + 1] ?? cards[cards.indexOf(one.card) - 1];
  drop(one);
  pictures = pictures.filter((other) => other !== one);
  waiting = waiting.filter((other) => other !== one);
  (next?.querySelector(".remove") ?? find("choose")).focus();
  tally();
}

function drop(one) {
  one.abort.abort();
  if (one.url) URL.revokeObjectURL(one.url);
  one.card.remove();
}

function clear() {
  pictures.forEach(drop);
  pictures = [];
  waiting = [];
  find("choose").focus();
  tally();
  say("All pictures removed");
}

// A small copy is kept and not the picture, of which a telephone has room for few. Not every format can be shown.
async function preview(one) {
  const url = URL.createObjectURL(one.file);
  try {
    const image = new Image();
    image.src = url;
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    const { naturalWidth: width, naturalHeight: height } = image;
    if (one.abort.signal.aborted || !width || width * height > MOST_PIXELS) throw new Error();
    const scale = Math.min(1, THUMBNAIL / Math.max(width, height));
    const canvas = make("canvas", "");
    Object.assign(canvas, { width: Math.max(1, width * scale), height: Math.max(1, height * scale) });
    const bitmap = await createImageBitmap(one.file);
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const small = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp"));
    if (one.abort.signal.aborted) return;
    one.url = URL.createObjectURL(small);
    one.look.replaceChildren(pictured(one.url, ""));
  } catch {
    if (!one.look.firstChild) one.look.append("No preview");
  } finally {
    URL.revokeObjectURL(url);
  }
}

function pictured(address, about) {
  const image = make("img", "");
  image.alt = about;
  image.draggable = false; // else a slip drops it on the page as another picture
  image.src = address;
  return image;
}

// Answers ------------------------------------------------------------------------------------------------------------

function inWords({ known, label, probability }) {
  return known === false ? `none of these. Nearest class ${plain(label)}` : `${plain(label)}, ${spoken(probability)}`;
}

function show(one) {
  const done = one.state === "said" || one.state === "failed";
  const parts = { said: () => answer(one.said), failed: () => refusal(one) }[one.state] ?? (() => [make("p", "state busy", one.why)]);
  one.body.replaceChildren(...parts());
  one.card.setAttribute("aria-busy", String(!done));
  one.reason.hidden = one.state !== "said";
  one.again.hidden = one.state !== "failed" || !one.passing;
  one.inside.hidden = one.state !== "said" || !one.open;
  tally();
}

function refusal(one) {
  return [make("p", "verdict wrong", one.passing ? "No answer" : "Cannot be used"), make("p", "", sentence(one.why))];
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function answer(said) {
  if (said.known === false) return stranger(said);
  const [first, ...others] = said.top;
  const runners = others.filter((one, place) => place === 0 || one.probability >= 0.005);
  const verdict = make("p", "verdict", make("bdi", "", plain(first.label)), make("span", "number", percent(first.probability)));
  const odds = make("ol", "odds", ...runners.map(chance));
  odds.setAttribute("aria-label", "Runners-up");
  return [verdict, bar(first.probability), ...(runners.length ? [odds] : []), ...among(said.set)];
}

function stranger(said) {
  const strange = percent(said.p_value, "\u00a0%", ["more than ", "fewer than "]);
  return [
    make("p", "verdict none", "None of these"),
    make("p", "said", `It looks like none of the ${number(model.classes.length, "class", "classes")} that the model knows.`),
    make("p", "said", sentence(`${strange} of pictures of these classes look as strange as this one`)),
    make("p", "said soft", "Nearest class, which does not make it right: ", make("bdi", "", plain(said.label))),
  ];
}

function chance({ label, probability }) {
  return make("li", "", make("bdi", "", plain(label)), bar(probability), make("span", "number", percent(probability)));
}

function bar(share) {
  const drawn = make("span", "bar");
  drawn.style.setProperty("--v", share);
  drawn.setAttribute("aria-hidden", "true");
  return drawn;
}

// The set of classes that holds the true one as often as was asked for, in words.
function among(set) {
  if (set.length === 0) return [];
  const names = (some) => some.flatMap((label, place) => [...(place ? [", "] : []), make("bdi", "", plain(label))]);
  const held = `Such lists hold the true class in ${Math.round(100 * model.coverage)} of 100 pictures.`;
  if (set.length === 1) return [make("p", "said soft", `No other class is likely enough to be named. ${held}`)];
  const words = make("p", "said soft", "It may be one of these: ", ...names(set.slice(0, MOST_NAMED)));
  if (set.length > MOST_NAMED) {
    const more = make("summary", "", ` and ${set.length - MOST_NAMED} more`);
    words.append(make("details", "", more, ", ", ...names(set.slice(MOST_NAMED))));
  }
  words.append(`. ${held}`);
  return [words];
}

// Count once for all that happens at a time, which may be much.
function tally() {
  if (!counting) queueMicrotask(count);
  counting = true;
}

function count() {
  counting = false;
  const those = (wanted) => pictures.filter(wanted).length;
  const failed = those((one) => one.state === "failed");
  const open = those((one) => one.state === "waiting" || one.state === "asked");
  const strange = those((one) => one.state === "said" && one.said.known === false);
  const parts = [
    number(pictures.length, "picture"),
    strange && `${strange} none of these`,
    failed && `${failed} without an answer`,
    open && `${open} to come`,
  ];
  find("tally").textContent = parts.filter(Boolean).join(", ");
  find("answers").hidden = pictures.length === 0;
}

// Why ----------------------------------------------------------------------------------------------------------------

function toggle(one, open) {
  one.open = open;
  one.reason.setAttribute("aria-expanded", String(open));
  one.inside.hidden = one.state !== "said" || !open;
  if (open && one.state === "said") explain(one);
}

function explain(one) {
  if (one.explained) return;
  one.explained = true;
  one.inside.replaceChildren(make("p", "state busy", "Heat maps are being drawn. The first takes several seconds."));
  explaining = explaining.then(() => draw(one));
}

async function draw(one) {
  if (!one.open || one.abort.signal.aborted) {
    one.explained = false; // closed again before it was its turn
    return;
  }
  try {
    if (noHeat) throw new Refusal(noHeat, 501);
    const tell = (why) => one.inside.replaceChildren(make("p", "state busy", why));
    const told = (await ask("explain", one.file, one.abort.signal, tell)).explanation;
    one.inside.replaceChildren(...reasons(one, told));
    if (!one.url && told.seen) one.look.replaceChildren(pictured(told.seen, ""));
    say(`${one.shown}: heat maps are shown`);
  } catch (error) {
    if (one.abort.signal.aborted) return;
    if (error.status === 501) noHeat = error.message;
    else one.explained = false; // opening it once more tries again
    const more = error.status === 501 ? "" : " Close this and ask again to try once more.";
    one.inside.replaceChildren(make("p", "state", `There is no heat map: ${sentence(error.message)}${more}`));
  }
}

function reasons(one, told) {
  if (!told.seen) return [make("p", "state", "There is no heat map of this picture.")];
  const [label, rival] = [told.speaks_for, told.speaks_for_rival].map((spot) => plain(spot.label));
  const view = (address, about, ...caption) =>
    make("figure", "", pictured(address, about), make("figcaption", "", ...caption));
  return [
    make("p", "soft", "What glows speaks for a class; what is grey and dim says nothing."),
    make(
      "div",
      "views",
      view(told.seen, `${one.shown} as the network sees it`, "As the network sees it"),
      view(told.speaks_for.picture, `Heat map for ${label}`, "Speaks for ", make("bdi", "", label)),
      view(told.speaks_for_rival.picture, `Heat map for ${rival}`, "Speaks for ", make("bdi", "", rival), " instead"),
    ),
    make("h4", "", "Most alike among the pictures learned from"),
    told.nearest.length
      ? make("ul", "near", ...told.nearest.map(neighbour))
      : make("p", "state", "They are not at hand, or are not shown."),
  ];
}

function neighbour({ label, similarity, picture }) {
  const shown = picture ? [pictured(picture, `Learned from: ${plain(label)}`)] : [];
  return make("li", "", ...shown, make("bdi", "", plain(label)), make("span", "", `similarity ${similarity.toFixed(2)}`));
}

// Export -------------------------------------------------------------------------------------------------------------

// As `defused` of data/tables.py: no spreadsheet runs a cell as a formula.
const defused = (cell) => (/^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(cell) ? `'${cell}` : cell);
const quoted = (cell) => (/[,"\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

// The columns are those of `headstart predict --format table`.
function csv() {
  const rows = [["image_id", "label", "probability", "known", "p_value", "set", "error"], ...pictures.map(row)];
  return rows.map((cells) => `${cells.map((cell) => quoted(defused(cell))).join(",")}\n`).join("");
}

function row({ name, state, said, why }) {
  if (state !== "said") return [name, "", "", "", "", "", state === "failed" ? why : "no answer yet"];
  const known = said.known === null ? "" : said.known ? "yes" : "no";
  const strangeness = said.p_value === null ? "" : String(Number(said.p_value.toPrecision(4)));
  return [name, said.label, String(said.probability), known, strangeness, said.set.join("|"), ""];
}

function save() {
  const link = make("a", "");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" })); // Excel asks for that mark
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// What people do -----------------------------------------------------------------------------------------------------

// Yield the files of what was dropped, folders and all, each with its path; not what systems leave in every folder.
async function* walk(entry) {
  if (/(^|\/)(\.[^/]*|Thumbs\.db|desktop\.ini)$/i.test(entry.fullPath)) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    yield Object.assign(file, { path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const one of some) yield* walk(one);
  }
}

async function unpack(entries) {
  const files = [];
  try {
    for (const entry of entries) for await (const file of walk(entry)) files.push(file);
  } catch {
    say("Something in the folder could not be read");
  }
  add(files.sort((one, other) => one.path.localeCompare(other.path, "en", { numeric: true })));
}

const brings = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  event.preventDefault(); // else the browser leaves for a link that is dropped
  if (brings(event)) document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  event.preventDefault();
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.some((entry) => entry.isDirectory)) unpack(entries);
  else add(event.dataTransfer.files);
});

addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length === 0) return;
  event.preventDefault();
  const drawn = files.length === 1 && files[0].name === "image.png"; // as browsers call what has no name
  add(drawn ? [Object.assign(files[0], { path: `pasted ${added + 1}.png` })] : files);
});

for (const id of ["choose", "photograph"]) {
  find(id).addEventListener("change", (event) => {
    if (event.target.files.length) add(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.target.value) return; // a field that is searched in is emptied first
  document.body.classList.remove("dropping");
  const open = pictures.filter((one) => one.open && one.state === "said");
  const here = open.find((one) => one.card.contains(document.activeElement)) ?? open.at(-1);
  if (!here) return;
  toggle(here, false);
  here.reason.focus();
});

find("find").addEventListener("input", filter);
find("save").addEventListener("click", save);
find("clear").addEventListener("click", clear);
find("notice").querySelector("button").addEventListener("click", connect);
connect();
