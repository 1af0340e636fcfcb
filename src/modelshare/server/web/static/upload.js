// The upload page: what was chosen or dropped, which open upload it goes on with, and how far it is.
import { reason } from "./answers.js";
import { IGNORE_FILE, LeftOut, note } from "./left_out.js";
import { PART_SIZE, Stopped, Transfer, call } from "./transfer.js";

const NAME = /^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$/;
const ARCHIVE = /\.(tar|tar\.gz|tgz|tar\.bz2|tbz2|tar\.zst|tzst)$/i;
const WEIGHTS = /\.(safetensors|gguf|bin|pt|pth|ckpt|pkl)$/i;
const SHOWN = 200; // file names
const SPAN = 10_000; // milliseconds over which speed is measured

const $ = (id) => document.getElementById(id);
const page = $("upload");
const { api, model, pages } = page.dataset;
const leftOut = new LeftOut(JSON.parse(page.dataset.leftOut));
let chosen = new Map(); // paths to Files
let latest = null; // the latest choice
let transfer = null;
let suggested = ""; // the name that we filled in

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; bytes >= 999.5 && step < units.length - 1; step++) bytes /= 1000;
  return `${bytes >= 100 || !step ? Math.round(bytes) : bytes.toFixed(1).replace(/\.0$/, "")} ${units[step]}`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

function complain(message) {
  $("problem").replaceChildren();
  if (!message) return;
  const note = document.createElement("div");
  note.className = "note bad";
  note.append(Object.assign(document.createElement("p"), { textContent: message }));
  $("problem").append(note);
}

// The text of a dropped folder's ignore file.
async function ignored(entry) {
  if (!entry.isDirectory) return "";
  const found = await new Promise((found) => entry.getFile(IGNORE_FILE, {}, found, () => found(null)));
  return found ? new Promise((read, failed) => found.file((file) => read(file.text()), failed)) : "";
}

// Files below a dropped folder; folders that are left out are not entered, unless something may be brought back.
async function* walk(entry, parent) {
  if (parent && entry.isDirectory && !leftOut.included.length && leftOut.listed(entry.name, true)) {
    yield { path: `${parent}${entry.name}/-`, file: null };
  } else if (entry.isFile) {
    yield { path: parent + entry.name, file: await new Promise((found, failed) => entry.file(found, failed)) };
  } else {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((found, failed) => reader.readEntries(found, failed));
      if (!some.length) return;
      for (const each of some) yield* walk(each, `${parent}${entry.name}/`);
    }
  }
}

async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean); // gone after the first await
  const found = [];
  leftOut.obey(entries.length === 1 ? await ignored(entries[0]) : "");
  for (const entry of entries) for await (const each of walk(entry, "")) found.push(each);
  return found;
}

// Takes what was chosen; paths begin below the folder. Nothing can be started until it is known what that would send,
// or an upload would begin with the files of the choice before. Of two choices at once the later one counts.
async function take(found) {
  const choice = (latest = Symbol("choice"));
  complain("");
  $("start").disabled = true;
  const [top] = found.length ? found[0].path.split("/") : [""];
  const folder = found.length > 0 && found.every(({ path }) => path.startsWith(`${top}/`));
  const all = found.map(({ path, file }) => ({ path: (folder ? path.slice(top.length + 1) : path).normalize("NFC"), file }));
  const ignoring = (await all.find(({ path }) => path === IGNORE_FILE)?.file.text()) ?? "";
  if (choice !== latest) return;
  leftOut.obey(ignoring);
  const out = all.map(({ path }) => leftOut.of(path));
  const good = all.filter(({ file }, at) => file && !out[at]);
  chosen = new Map(good.map(({ path, file }) => [path, file]));
  const total = good.reduce((sum, { file }) => sum + file.size, 0);
  const words = good.length ? `${plural(good.length, "file")}, ${size(total)}` : "Nothing to upload";
  $("chosen").textContent = `${words}${note(out.filter(Boolean))}.`;
  list();
  $("start").textContent = "Upload";
  if (!usable()) return;
  suggest(folder ? top : good[0].path);
  const upload = await recognise();
  if (choice !== latest) return;
  if (upload) resume(upload);
  $("start").disabled = false;
}

function list() {
  const names = [...chosen].slice(0, SHOWN).map(([path, file]) => {
    return Object.assign(document.createElement("li"), { textContent: `${path} (${size(file.size)})` });
  });
  if (chosen.size > SHOWN) names.push(`and ${plural(chosen.size - SHOWN, "more file")}`);
  $("names").replaceChildren(...names);
  $("listing").hidden = !chosen.size;
}

function archive() {
  const [[path, file]] = chosen;
  return chosen.size === 1 && ARCHIVE.test(path) ? { filename: path, size: file.size } : null;
}

function usable() {
  if (!chosen.size) return false;
  if (archive() || [...chosen.keys()].some((path) => WEIGHTS.test(path))) return true;
  complain("There are no weights (.safetensors or .gguf) among these files. Choose the folder that has the model's config.json and weights.");
  return false;
}

function suggest(base) {
  const field = $("f-name");
  const name = base.replace(ARCHIVE, "").replace(/\.gguf$/i, "");
  if (!field || (field.value && field.value !== suggested) || !NAME.test(name)) return;
  field.value = suggested = name;
}

// Finds the open upload of the same files, whoever began it and wherever.
async function recognise() {
  const same = (upload) => upload.files.length === chosen.size && (!model || upload.model === model)
    && upload.files.every((file) => chosen.get(file.path)?.size === file.size);
  const open = await call("GET", `${api}/uploads?state=open&limit=200`).catch(() => ({ data: [] }));
  const candidates = open.data.filter(same);
  return candidates.find((each) => each.name === $("f-name")?.value) ?? candidates[0];
}

function resume(upload) {
  if ($("f-name")) $("f-name").value = suggested = upload.name;
  $("f-version").value = upload.version;
  $("start").textContent = "Resume";
  $("chosen").textContent += ` This resumes ${upload.name} ${upload.version}: ${size(upload.bytes_done)} of ${size(upload.bytes_total)} are stored.`;
}

// Bytes, speed and time left. What is stored stays there, whatever happens here; what is sent besides is on its way.
function meter() {
  const seen = [];
  return (stored, sent, total) => {
    const now = performance.now();
    seen.push([now, sent]);
    while (seen.length > 2 && seen[0][0] < now - SPAN) seen.shift();
    const [then, before] = seen[0];
    const speed = now > then ? Math.max(0, ((sent - before) * 1000) / (now - then)) : 0;
    $("bar").value = total ? stored / total : 1;
    $("sent").value = total ? sent / total : 1;
    $("bytes").textContent = `${size(stored)} of ${size(total)} stored`;
    $("on-its-way").hidden = sent <= stored;
    $("more").textContent = `${size(sent - stored)} more sent`;
    $("pace").textContent = speed && !transfer?.paused ? `${size(speed)}/s, ${span((total - sent) / speed)} left` : "";
  };
}

function opening() {
  const request = { version: $("f-version").value.trim() || null, part_size: PART_SIZE };
  if (!model) request.name = $("f-name").value.trim();
  if ($("f-notes").value.trim()) request.version_notes = $("f-notes").value.trim();
  if ($("f-latest").value) request.make_latest = $("f-latest").value === "yes";
  const single = archive();
  if (single) request.archive = single;
  else request.files = [...chosen].map(([path, file]) => ({ path, size: file.size }));
  if (leftOut.included.length) request.include = leftOut.included;
  return request;
}

function show(sending) {
  $("progress").hidden = !sending;
  $("send").hidden = $("drop").hidden = sending;
  $("state").textContent = "";
  $("pause").textContent = "Pause";
}

async function start() {
  complain("");
  show(true);
  $("what").textContent = "Uploading";
  transfer = new Transfer(api, chosen, {
    opened: (upload) => { $("what").textContent = `Uploading ${upload.name} ${upload.version}`; },
    progress: meter(),
    state: (words) => { $("state").textContent = words; },
    signedOut: (words) => { if (!transfer.paused) pause(words); },
  });
  try {
    const upload = await transfer.run(model ? `/models/${model}/versions` : "/uploads", opening());
    transfer = null;
    location.assign(`${pages}/${upload.model}`);
  } catch (error) {
    transfer = null;
    show(false);
    $("start").textContent = "Try again";
    if (!(error instanceof Stopped)) complain(reason(error));
  }
}

async function pause(why = "Paused.") {
  const paused = transfer.pause();
  $("pause").textContent = "Resume";
  $("pace").textContent = "";
  $("state").textContent = `${why} Waiting for parts in progress…`;
  const kept = await paused;
  if (!kept) {
    if (transfer?.paused) $("state").textContent = why;
    return;
  }
  const stored = `${size(kept.bytes_done)} of ${size(kept.bytes_total)}`;
  const until = new Date(kept.expires_at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  $("state").textContent = kept.expires_at
    ? `${why} ${stored} are stored on the server, and kept there until ${until}.`
    : `${why} ${stored} were stored when the server last answered, and are kept there for a day.`;
}

function pauseOrResume() {
  if (!transfer.paused) return pause();
  transfer.resume();
  $("pause").textContent = "Pause";
  $("state").textContent = "";
}

async function cancel() {
  if (!confirm("Cancel the upload and delete the uploaded data?")) return;
  const ending = transfer;
  await ending.cancel().then(() => location.reload(), (error) => complain(reason(error)));
}

const unreadable = () => complain("These files cannot be read. Choose the folder again.");
const picked = (input) => [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
for (const id of ["folder", "files"]) {
  $(`choose-${id}`).addEventListener("click", () => $(id).click());
  $(id).addEventListener("change", async () => {
    const found = picked($(id));
    $(id).value = ""; // so that choosing the same again is a change
    if (found.length) await take(found).catch(unreadable);
  });
}
$("drop").addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  await dropped(event.dataTransfer.items).then(take).catch(unreadable);
});
$("send").addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("pause").addEventListener("click", pauseOrResume);
$("cancel").addEventListener("click", cancel);
for (const button of document.querySelectorAll("[data-resume]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    if ($("f-name")) $("f-name").value = button.dataset.name;
    $("f-version").value = button.dataset.version;
    $("folder").click();
  });
}
addEventListener("beforeunload", (event) => { if (transfer && !transfer.paused) event.preventDefault(); });
page.hidden = false;
