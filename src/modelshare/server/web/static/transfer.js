// Sends a model's files to the platform, part by part, and goes on after whatever came between.
// Files are sliced, so a browser never holds more of them in memory than the parts that are on their way.
import { Failure, UNREADABLE, explained, span, wait } from "./answers.js";
import { sha256, sha256Streamed } from "./sha256.js";

const PARALLEL = 3;
const LONGEST_WAIT = 30; // seconds between two attempts
const STALLED = 120_000; // milliseconds without a byte moving

// The platform's answer is no, and the same again would be refused again.
export class Refused extends Failure {}
// The same may work in a moment: a lost connection, a busy server.
class Lost extends Failure {
  constructor(message, seconds = 0) {
    super(message);
    this.wait = seconds; // seconds, where the server says so
  }
}
// Somebody cancelled.
export class Stopped extends Error {}

// What an answer says: its JSON, or the error.
function read(status, text, retryAfter) {
  let body = null;
  try { body = JSON.parse(text); } catch { /* not ours, such as a proxy's page */ }
  if (status >= 200 && status < 300) {
    if (body === null) throw new Lost(UNREADABLE);
    return body;
  }
  const message = explained(status, text);
  const code = body?.error?.code;
  if (status === 401) throw new Refused("You were signed out. Sign in again in another tab, then go on here.");
  const passes = status === 408 || status === 429 || (status >= 500 && code !== "storage_full");
  if (passes || code === "checksum_mismatch") throw new Lost(message, wait(retryAfter));
  throw new Refused(message);
}

export async function call(method, url, body) {
  let answer, text;
  try {
    const headers = body ? { "Content-Type": "application/json" } : {};
    answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    text = await answer.text();
  } catch {
    throw new Lost("The connection is lost.");
  }
  return read(answer.status, text, answer.headers.get("Retry-After"));
}

export class Transfer {
  #api;
  #files;
  #hear;
  #upload = null;
  #done = 0; // bytes of parts that are there
  #sending = new Map(); // a part's request: its bytes that are out
  #resumed = null; // resolves when a pause ends
  #resume = () => {};
  #stopped = false;
  #wake = new EventTarget();

  // `files`: a Map of paths to Files. `hear`: { opened(upload), progress(done, total), state(words) }.
  constructor(api, files, hear) {
    this.#api = api;
    this.#files = files;
    this.#hear = hear;
  }

  // From opening to completing; the upload as it is then. Throws Refused, Stopped.
  async run(path, opening) {
    let upload = await this.#insist(() => call("POST", this.#api + path, opening));
    if (await this.#hashCandidates(upload, opening)) {
      upload = await this.#insist(() => call("POST", this.#api + path, opening));
    }
    this.#upload = upload;
    this.#hear.opened(upload);
    const missing = await this.#missing(upload);
    this.#report();
    const next = missing.values();
    const worker = async () => { for (const part of next) await this.#sendPart(part); };
    await Promise.all(Array.from({ length: PARALLEL }, worker)).catch((error) => {
      this.#stopped = true;
      this.#abort();
      throw error;
    });
    return this.#insist(() => call("POST", `${this.#api}/uploads/${upload.id}/complete`));
  }

  get paused() { return this.#resumed !== null; }

  pause() {
    this.#resumed ??= new Promise((resolve) => { this.#resume = resolve; });
    this.#abort();
  }

  resume() {
    this.#resumed = null;
    this.#resume();
  }

  // Ends it, and has the platform forget what was sent.
  async cancel() {
    this.#stopped = true;
    this.resume();
    this.#abort();
    if (this.#upload) await call("POST", `${this.#api}/uploads/${this.#upload.id}/cancel`);
  }

  // Learns the digests of files that the project may store already; whether there were any.
  async #hashCandidates(upload, opening) {
    const begun = new Set(upload.files.filter((file) => file.parts_done.length).map((file) => file.path));
    const candidates = new Set(upload.hash_candidates.filter((path) => !begun.has(path)));
    if (!candidates.size) return false;
    this.#hear.state("Looking which files the platform has already.");
    for (const entry of opening.files) {
      if (!candidates.has(entry.path)) continue;
      await this.#gate();
      const file = this.#files.get(entry.path);
      const digest = file.size <= upload.part_size ? sha256 : sha256Streamed;
      entry.sha256 = await this.#reading(entry.path, () => digest(file));
    }
    return true;
  }

  // The parts to send. Those that are there count only while they hold the same bytes as the file.
  async #missing(upload) {
    const missing = [];
    for (const file of upload.files) {
      const there = new Set(file.parts_done);
      for (let k = 0; k < file.parts; k++) {
        const start = k * upload.part_size;
        const size = Math.min(upload.part_size, file.size - start);
        const part = { n: file.n, k, path: file.path, start, size };
        if (file.reused || (there.has(k) && await this.#isSame(part, file.parts_sha256[k]))) this.#done += size;
        else missing.push(part);
      }
    }
    return missing;
  }

  async #isSame(part, digest) {
    if (!digest) return true; // a bucket, which does not say
    this.#hear.state("Comparing what is there with your files.");
    await this.#gate();
    return digest === await this.#reading(part.path, () => sha256(this.#slice(part)));
  }

  async #sendPart(part) {
    await this.#insist(() => this.#put(part));
    this.#done += part.size;
    this.#hear.state("");
    this.#report();
  }

  async #put(part) {
    const body = this.#slice(part);
    const path = `${this.#api}/uploads/${this.#upload.id}/files/${part.n}/parts/${part.k}`;
    const hashed = this.#upload.direct ? body.slice(0, 1) : body; // at least see that the file can be read still
    const digest = await this.#reading(part.path, () => sha256(hashed));
    await this.#gate();
    if (!this.#upload.direct) {
      const answer = await this.#request(path, { "X-Checksum-SHA256": digest }, body);
      return read(answer.status, answer.responseText, answer.getResponseHeader("Retry-After"));
    }
    const { url } = await call("POST", `${path}/url`);
    const answer = await this.#request(url, {}, body).catch((error) => {
      throw this.paused ? error : new Lost("The storage bucket does not answer. If that stays so, the platform's operator has to let this site into the bucket's CORS rules.");
    });
    if (answer.status >= 300) throw new Lost(`The storage bucket answered ${answer.status}.`);
    return null;
  }

  // XMLHttpRequest, since fetch does not tell how far a body is.
  #request(url, headers, body) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      let stalled;
      const moved = (bytes) => {
        clearTimeout(stalled);
        stalled = setTimeout(() => request.abort(), STALLED);
        this.#sending.set(request, bytes);
        this.#report();
      };
      const settle = (act) => () => {
        clearTimeout(stalled);
        this.#sending.delete(request);
        act();
      };
      request.open("PUT", url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => moved(event.loaded);
      request.onload = settle(() => resolve(request));
      request.onerror = request.onabort = settle(() => reject(new Lost("The connection is lost.")));
      moved(0);
      request.send(body);
    });
  }

  // Does it until it works: pauses between attempts grow to half a minute and end early when the browser is online again.
  async #insist(act) {
    for (let attempt = 0; ; attempt++) {
      await this.#gate();
      try {
        return await act();
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        if (this.#stopped || this.paused) continue;
        this.#report();
        const seconds = Math.max(error.wait, Math.min(2 ** attempt, LONGEST_WAIT));
        this.#hear.state(`${error.message} Trying again in ${span(seconds)}.`);
        await this.#wait(seconds);
      }
    }
  }

  async #wait(seconds) {
    const ended = new AbortController();
    await new Promise((resolve) => {
      setTimeout(resolve, seconds * 1000);
      addEventListener("online", resolve, { signal: ended.signal });
      this.#wake.addEventListener("wake", resolve, { signal: ended.signal });
    });
    ended.abort();
  }

  async #gate() {
    while (this.#resumed) await this.#resumed;
    if (this.#stopped) throw new Stopped();
  }

  #abort() {
    for (const request of [...this.#sending.keys()]) request.abort();
    this.#wake.dispatchEvent(new Event("wake"));
    this.#report();
  }

  async #reading(path, act) {
    try {
      return await act();
    } catch {
      throw new Refused(`${path} cannot be read any more: it was moved or changed. Choose the folder again.`);
    }
  }

  #slice(part) { return this.#files.get(part.path).slice(part.start, part.start + part.size); }

  #report() {
    if (!this.#upload) return;
    let out = this.#done;
    for (const bytes of this.#sending.values()) out += bytes;
    this.#hear.progress(out, this.#upload.bytes_total);
  }
}
