// Sends a model's files to the platform, part by part, and goes on after whatever came between.
// Files are sliced, so a browser never holds more of them in memory than the parts that are on their way.
//
// A file may change while it is sent. So all of it is read again after all of it was sent: where both readings agree, it
// held these very bytes at the moment between them. What was read is said when the upload is completed, and the platform
// publishes nothing else.
import { Failure, UNREADABLE, explained, span, wait } from "./answers.js";
import { Sha256, sha256, sha256OfDigests, sha256Streamed } from "./sha256.js";

export const PART_SIZE = 8 << 20; // bytes: a break costs no more than the parts that are on their way
const PARALLEL = 3;
const LARGE_PART = 16 << 20; // bytes, as a command line may have begun with: one of these at a time
const LARGEST_PART = 512 << 20; // bytes that a browser holds in memory
const FINISHING = 60_000; // milliseconds that a pause leaves to the parts that are on their way
const LONGEST_WAIT = 30; // seconds between two attempts
const CLASHES = ["upload_not_open", "part_replaced"]; // codes: another tab completes the upload, or sends the same part
const MOST_CLASHES = 5;
const STALLED = 120_000; // milliseconds without a byte moving

// The platform's answer is no, and the same again would be refused again.
export class Refused extends Failure {
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}
// The same may work in a moment: a lost connection, a busy server.
class Lost extends Failure {
  constructor(message, seconds = 0) {
    super(message);
    this.wait = seconds; // seconds, where the server says so
  }
}
// Nobody is signed in any more.
class SignedOut extends Failure {}
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
  if (status === 401) throw new SignedOut("You were signed out. Sign in again in another tab, then press Resume.");
  const passes = status === 408 || status === 429 || (status >= 500 && code !== "storage_full");
  if (passes) throw new Lost(message, wait(retryAfter));
  throw new Refused(message, code);
}

export async function call(method, url, body) {
  let answer, text;
  try {
    const headers = body ? { "Content-Type": "application/json" } : {};
    answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    text = await answer.text();
  } catch {
    throw new Lost("The connection was lost.");
  }
  return read(answer.status, text, answer.headers.get("Retry-After"));
}

export class Transfer {
  #api;
  #files;
  #hear;
  #upload = null;
  #done = 0; // bytes of parts that are stored
  #digests = new Map(); // a part's place: the SHA-256 of what is stored there, in hex
  #sending = new Map(); // a part's request: its bytes that are out
  #resumed = null; // resolves when a pause ends
  #resume = () => {};
  #stopped = false;
  #wake = new EventTarget();

  // `files`: a Map of paths to Files.
  // `hear`: { opened(upload), progress(stored, sent, total), state(words), signedOut(words) }, the last of which pauses.
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
    if (upload.part_size > LARGEST_PART) throw new Refused("This upload was started with parts that are too large for a browser. Resume it from a terminal, or cancel it.");
    this.#upload = upload;
    this.#hear.opened(upload);
    try {
      await this.#sendAll(await this.#missing(upload));
      const files = await this.#readAgain(upload);
      return await this.#insist(() => call("POST", `${this.#api}/uploads/${upload.id}/complete`, { files }));
    } catch (error) {
      this.#stopped = true;
      this.#abort();
      const now = CLASHES.includes(error.code) && await this.#ask().catch(() => null);
      if (now?.state === "completed") return now; // by another tab
      throw error;
    }
  }

  get paused() { return this.#resumed !== null; }

  // Begins no more parts, and leaves some time to those on their way. What is stored then: { bytes_done, bytes_total,
  // expires_at } as the platform says, without the last where it cannot be asked; null before anything was opened, or
  // where the pause has ended meanwhile.
  async pause() {
    this.#resumed ??= new Promise((resolve) => { this.#resume = resolve; });
    const pause = this.#resumed;
    this.#wake.dispatchEvent(new Event("wake"));
    const late = setTimeout(() => this.#abort(), FINISHING);
    while (this.#sending.size && this.#resumed === pause) {
      await new Promise((resolve) => {
        for (const name of ["wake", "settled"]) this.#wake.addEventListener(name, resolve, { once: true });
      });
    }
    clearTimeout(late);
    if (!this.#upload || this.#resumed !== pause) return null;
    const stored = await this.#ask().catch(() => ({ bytes_done: this.#done, bytes_total: this.#upload.bytes_total }));
    return this.#resumed === pause ? stored : null;
  }

  resume() {
    this.#resumed = null;
    this.#resume();
    this.#wake.dispatchEvent(new Event("wake"));
  }

  // Ends it, and has the platform forget what was sent.
  async cancel() {
    this.#stopped = true;
    this.resume();
    this.#abort();
    if (this.#upload) await call("POST", `${this.#api}/uploads/${this.#upload.id}/cancel`);
  }

  #ask() { return call("GET", `${this.#api}/uploads/${this.#upload.id}`); }

  async #sendAll(parts) {
    this.#report();
    const next = parts.values();
    const sender = async () => { for (const part of next) await this.#sendPart(part); };
    const senders = this.#upload.part_size > LARGE_PART ? 1 : PARALLEL;
    await Promise.all(Array.from({ length: senders }, sender));
  }

  // Reads every file once more, and refuses one that is not what was sent. What was read, as completing takes it.
  async #readAgain(upload) {
    const read = [];
    const total = upload.files.reduce((sum, file) => sum + (file.reused ? 0 : file.size), 0);
    let checked = 0;
    for (const file of upload.files) {
      if (file.reused || !file.parts) continue;
      const digests = [];
      const whole = upload.direct ? new Sha256() : null; // a bucket tells nothing of parts, so the platform reads the file
      for (let k = 0; k < file.parts; k++) {
        await this.#gate();
        this.#hear.state(`Checking that your files have not changed: ${Math.floor((100 * checked) / total)} %.`);
        const part = this.#part(upload, file, k);
        const bytes = await this.#bytes(part);
        const digest = await sha256(bytes);
        whole?.update(new Uint8Array(bytes));
        const stored = this.#digests.get(place(part));
        if (stored && stored !== digest) throw new Refused(`${file.path} changed while it was being uploaded. Upload it again when no program is writing to it.`);
        digests.push(digest);
        checked += part.size;
      }
      read.push(whole ? { n: file.n, sha256: whole.hex() } : { n: file.n, parts_sha256: await sha256OfDigests(digests) });
    }
    return read;
  }

  // Learns the digests of files that the project may store already; whether there were any.
  async #hashCandidates(upload, opening) {
    const begun = new Set(upload.files.filter((file) => file.parts_done.length).map((file) => file.path));
    const candidates = new Set(upload.hash_candidates.filter((path) => !begun.has(path)));
    if (!candidates.size) return false;
    this.#hear.state("Checking which files the platform already has.");
    for (const entry of opening.files) {
      if (!candidates.has(entry.path)) continue;
      await this.#gate();
      const file = this.#files.get(entry.path);
      const digest = async () => file.size > LARGE_PART ? sha256Streamed(file) : sha256(await file.arrayBuffer());
      entry.sha256 = await this.#reading(entry.path, digest);
    }
    return true;
  }

  // The parts to send. Those that are there count only while they hold the same bytes as the file.
  async #missing(upload) {
    const missing = [];
    for (const file of upload.files) {
      const there = new Set(file.parts_done);
      for (let k = 0; k < file.parts; k++) {
        const part = this.#part(upload, file, k);
        if (file.reused || (there.has(k) && await this.#isSame(part, file.parts_sha256[k]))) this.#done += part.size;
        else missing.push(part);
      }
    }
    this.#hear.state("");
    return missing;
  }

  async #isSame(part, digest) {
    if (!digest) return true; // a bucket, which does not say: the platform compares when all is there
    this.#hear.state("Comparing the stored parts with your files.");
    await this.#gate();
    this.#digests.set(place(part), digest);
    return digest === await sha256(await this.#bytes(part));
  }

  async #sendPart(part) {
    await this.#insist(() => this.#put(part));
    this.#done += part.size;
    this.#report();
    if (!this.paused) this.#hear.state("");
  }

  async #put(part) {
    const path = `${this.#api}/uploads/${this.#upload.id}/files/${part.n}/parts/${part.k}`;
    const bytes = await this.#bytes(part); // what is hashed is what is sent
    const digest = await sha256(bytes);
    await this.#gate();
    if (this.#upload.direct) {
      await this.#putIntoBucket(path, bytes);
    } else {
      const answer = await this.#request(path, { "X-Checksum-SHA256": digest }, bytes);
      try {
        read(answer.status, answer.responseText, answer.getResponseHeader("Retry-After"));
      } catch (error) {
        throw error.code === "checksum_mismatch" ? new Lost(error.message) : error; // damaged on its way
      }
    }
    this.#digests.set(place(part), digest);
  }

  async #putIntoBucket(path, bytes) {
    const { url } = await call("POST", `${path}/url`);
    await this.#gate();
    const answer = await this.#request(url, {}, bytes).catch((error) => {
      throw this.paused ? error : new Lost("The storage bucket is not responding. If this persists, ask the platform's operator to allow this site in the bucket's CORS rules.");
    });
    if (answer.status >= 300) throw new Lost(`The storage bucket answered ${answer.status}.`);
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
        setTimeout(() => this.#wake.dispatchEvent(new Event("settled"))); // after what waits for the answer
      };
      request.open("PUT", url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => moved(event.loaded);
      request.onload = settle(() => resolve(request));
      request.onerror = request.onabort = settle(() => reject(new Lost("The connection was lost.")));
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
        if (error instanceof SignedOut && !this.#stopped) {
          this.#hear.signedOut(error.message);
          continue;
        }
        if (!(error instanceof Lost) && !(attempt < MOST_CLASHES && await this.#clashed(error))) throw error;
        if (this.#stopped || this.paused) continue;
        this.#report();
        const seconds = Math.max(error.wait ?? 0, Math.min(2 ** attempt, LONGEST_WAIT));
        this.#hear.state(`${error.message} Trying again in ${span(seconds)}.`);
        await this.#wait(seconds);
      }
    }
  }

  // Whether another tab came between, and the upload is open still.
  async #clashed(error) {
    if (!CLASHES.includes(error.code) || !this.#upload) return false;
    const now = await this.#ask().catch(() => null);
    return now?.state === "open";
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
      throw new Refused(`${path} changed while it was being uploaded, or was moved. Choose it again when no program is writing to it.`);
    }
  }

  #part(upload, file, k) {
    const start = k * upload.part_size;
    return { n: file.n, k, path: file.path, start, size: Math.min(upload.part_size, file.size - start) };
  }

  #bytes(part) {
    const slice = this.#files.get(part.path).slice(part.start, part.start + part.size);
    return this.#reading(part.path, () => slice.arrayBuffer());
  }

  #report() {
    if (!this.#upload) return;
    let out = this.#done;
    for (const bytes of this.#sending.values()) out += bytes;
    this.#hear.progress(this.#done, out, this.#upload.bytes_total);
  }
}

const place = (part) => `${part.n}/${part.k}`;
