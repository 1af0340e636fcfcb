// The playground: sends what is typed to the endpoint itself and shows what comes, as it comes.
// Everything people and models write becomes text nodes. Nothing is kept beyond the page.
import { Failure, UNREADABLE, explained, parsed, reason, span, told, wait } from "./answers.js";

const place = document.getElementById("playground");
const $ = (id) => document.getElementById(id);
const VALUES = 8; // of a vector are shown
const UNREACHABLE = "The platform cannot be reached. Check your connection, then try again.";
const BROKEN_OFF = "The connection was lost before the answer was complete.";
let conversation = []; // messages that were answered, and their answers
let running = null; // AbortController of the request under way

// The parsed data of server-sent events, each as soon as it is whole.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => { throw lost(error, BROKEN_OFF); });
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data) yield data;
    }
  }
}

// Text with a class; what it says is never HTML.
function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

function say(who, text, kind) {
  const message = element("div", "", `message ${kind}`);
  message.append(element("strong", who), element("p", text));
  message.lastChild.dir = "auto";
  $("log").querySelector(":scope > .muted")?.remove();
  $("log").append(message);
  $("log").scrollTop = $("log").scrollHeight;
  return message;
}

// Why there is no answer, or no more of it; what stands between backticks is code.
function fail(heading, message) {
  const words = say(heading, "", "bad").lastChild;
  words.append(...message.split("`").map((part, number) => (number % 2 ? element("code", part) : part)));
}

function busy(controller) {
  running = controller;
  $("send").disabled = controller !== null;
  $("stop").hidden = controller === null;
  if ($("clear")) $("clear").disabled = controller !== null;
  $("log").setAttribute("aria-busy", String(controller !== null)); // read aloud once it is whole
}

// A connection that failed, in words; as it is where it was ended here.
function lost(error, words) {
  return error.name === "AbortError" ? error : new Failure(words);
}

function advice(response) {
  if (response.status === 413) return "Shorten it and try again.";
  const seconds = wait(response.headers.get("Retry-After"));
  return `Try again in ${seconds ? span(seconds) : "a moment"}.`;
}

function number(id) {
  const value = $(id)?.value.trim();
  return value ? Number(value) : undefined;
}

function route() {
  return place.dataset.kind === "embedding" ? "embeddings" : "chat/completions";
}

// What is sent when `text` is said now.
function request(text) {
  if (place.dataset.kind === "embedding") return { model: place.dataset.model, input: text };
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...conversation, { role: "user", content: text }];
  return { model: place.dataset.model, messages, temperature: number("temperature"), max_tokens: number("max-tokens") };
}

async function post(body, signal) {
  const response = await fetch(`${place.dataset.url}/${route()}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  }).catch((error) => { throw lost(error, UNREACHABLE); });
  if (response.ok) return response;
  throw new Failure(explained(response.status, await whole(response), advice(response)));
}

function whole(response) {
  return response.text().catch((error) => { throw lost(error, BROKEN_OFF); });
}

function seconds(from, to) {
  return `${((to - from) / 1000).toFixed(1)} s`;
}

function figures(usage, began, first) {
  const now = performance.now();
  const parts = [`${seconds(began, now)}`];
  if (first) parts.push(`first token after ${seconds(began, first)}`);
  if (usage) parts.unshift(`${usage.prompt_tokens ?? 0} + ${usage.completion_tokens ?? 0} tokens`);
  return parts.join(" · ");
}

// Shows the answer as it comes. What was answered before it broke off stays to be read.
async function chat(text, signal) {
  const began = performance.now();
  const body = { ...request(text), stream: true, stream_options: { include_usage: true } };
  say("You", text, "mine");
  const message = say(place.dataset.model || "Model", "", "theirs");
  const shown = message.lastChild.appendChild(document.createTextNode(""));
  let usage = null, first = 0, ended = false;
  try {
    const response = await post(body, signal);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { ended = true; break; }
      const event = parsed(data);
      if (event.error) throw new Failure(told(event) ?? "The endpoint aborted its answer.");
      usage = event.usage ?? usage;
      const piece = event.choices?.[0]?.delta?.content;
      if (!piece) continue;
      first ||= performance.now();
      const follows = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 40;
      shown.appendData(piece);
      if (follows) $("log").scrollTop = $("log").scrollHeight;
    }
    if (!ended) throw new Failure(BROKEN_OFF);
  } catch (error) {
    error.partial = shown.data !== "";
    throw error;
  } finally {
    if (shown.data) {
      conversation.push({ role: "user", content: text }, { role: "assistant", content: shown.data });
      message.append(element("p", figures(usage, began, first), "small muted"));
    } else if (!ended) {
      message.remove();
    } else {
      shown.data = "(an empty answer)";
    }
  }
}

async function embed(text, signal) {
  const began = performance.now();
  const response = await post(request(text), signal);
  const { data, usage } = parsed(await whole(response)) ?? {};
  const vector = data?.[0]?.embedding;
  if (!Array.isArray(vector)) throw new Failure(UNREADABLE);
  const values = vector.slice(0, VALUES).map((value) => value.toFixed(4)).join(", ");
  const message = say(text, `${vector.length} values: ${values}${vector.length > VALUES ? ", …" : ""}`, "theirs");
  message.append(element("p", figures(usage, began, 0), "small muted"));
}

async function send() {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  const controller = new AbortController();
  busy(controller);
  $("prompt").value = "";
  try {
    await (place.dataset.kind === "embedding" ? embed : chat)(text, controller.signal);
  } catch (error) {
    if (controller.signal.aborted) say("Stopped", "You stopped the answer.", "muted");
    else fail(error.partial ? "Aborted" : "Failed", reason(error));
    if (!error.partial) $("prompt").value ||= text; // to send it again
  } finally {
    busy(null);
    showCode();
    $("prompt").focus();
  }
}

// The same request as code: JSON between a shell's single quotes, and as Python, whose strings JSON's are.
function showCode() {
  const body = request($("prompt").value.trim() || "Hello!");
  const url = `${place.dataset.base}/${route()}`;
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  $("code-curl").textContent = `curl ${url} \\\n  -H "Authorization: Bearer $MODELSHARE_API_KEY" -H "Content-Type: application/json" \\\n  -d '${json}'`;
  const call = place.dataset.kind === "embedding" ? "embeddings" : "chat.completions";
  const given = Object.entries(body).filter(([, value]) => value !== undefined);
  const lines = given.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  const result = place.dataset.kind === "embedding" ? "len(answer.data[0].embedding)" : "answer.choices[0].message.content";
  $("code-openai").textContent = [
    "import os", "", "from openai import OpenAI", "",
    `client = OpenAI(base_url=${JSON.stringify(place.dataset.base)}, api_key=os.environ["MODELSHARE_API_KEY"])`,
    `answer = client.${call}.create(`, ...lines, ")", `print(${result})`,
  ].join("\n");
}

if (place) {
  place.hidden = false;
  showCode();
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  place.addEventListener("input", showCode);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("clear")?.addEventListener("click", () => {
    conversation = [];
    $("log").replaceChildren(element("p", "Type a message below.", "muted"));
    showCode();
    $("prompt").focus();
  });
}
