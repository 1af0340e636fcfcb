// What is left out of a model: the platform's list, which the page brings along, and the patterns of an ignore file.
export const IGNORE_FILE = ".modelshareignore";
const NAMED = 5; // in a note
const TEMPORARY = /^(hidden|cache|unfinished|written by)/; // reasons

export class LeftOut {
  #list;
  #kept;
  #patterns = [];

  // `list` and `kept` as `wire/left_out.py` has them.
  constructor({ list, kept }) {
    this.#kept = new Set(kept);
    this.#list = list.map(({ reason, folders, files }) => ({ reason, folders: new RegExp(folders, "s"), files: new RegExp(files, "s") }));
  }

  // Why a file or folder of this name is on the list, or null.
  listed(name, isFolder) {
    const small = name.normalize("NFC").toLowerCase();
    if (!isFolder && this.#kept.has(small)) return null;
    return this.#list.find(({ folders, files }) => (isFolder ? folders : files).test(small))?.reason ?? null;
  }

  // Takes the patterns of an ignore file, as .gitignore has them.
  obey(text) {
    this.#patterns = text.split(/\r?\n/).map(parsed).filter(Boolean);
  }

  // The patterns that bring files back, which the platform is told of.
  get included() {
    return this.#patterns.filter(({ negated }) => negated).map(({ text }) => text);
  }

  // What is left out of a file's path: { path, reason }, the path itself or a folder around it; null where it is pushed.
  of(path) {
    const names = path.split("/");
    const prefixes = names.map((_, at) => ({ path: names.slice(0, at + 1).join("/"), isFolder: at < names.length - 1 }));
    const fits = ({ expression, foldersOnly }) =>
      prefixes.some((prefix) => expression.test(prefix.path) && (prefix.isFolder || !foldersOnly));
    const last = this.#patterns.findLast(fits);
    if (last?.negated) return null;
    for (const prefix of prefixes) {
      const reason = this.listed(prefix.path.split("/").at(-1), prefix.isFolder);
      if (reason) return { path: prefix.path + (prefix.isFolder ? "/" : ""), reason };
    }
    return last ? { path, reason: "as you asked" } : null;
  }
}

// What was left out, each once, for the end of a sentence; empty where nothing was.
export function note(found) {
  const reasons = new Map(found.map(({ path, reason }) => [path, reason]));
  const words = [...reasons].slice(0, NAMED).map(([path, reason]) => `${path} (${reason})`);
  if (reasons.size > NAMED) words.push(`${(reasons.size - NAMED).toLocaleString("en")} more`);
  const kind = found.every(({ reason }) => TEMPORARY.test(reason)) ? "hidden or temporary file" : "file";
  return words.length ? `; ${found.length.toLocaleString("en")} ${kind}${found.length === 1 ? "" : "s"} left out: ${words.join(", ")}` : "";
}

// One line's pattern, null for an empty one or a comment.
function parsed(line) {
  let text = line.replace(/(?<!\\)[ \t]+$/, "");
  if (!text || text.startsWith("#")) return null;
  const negated = text.startsWith("!");
  if (negated) text = text.slice(1);
  const foldersOnly = text.endsWith("/");
  const plain = text;
  text = text.replace(/\/+$/, "");
  const names = text.split("/").filter(Boolean);
  if (!names.length) return null;
  if (!text.includes("/")) names.unshift("**");
  if (names.at(-1) === "**") names[names.length - 1] = "*";
  const source = names.map((name, at) => {
    if (name === "**") return "(?:[^/]+/)*";
    return segment(name) + (at < names.length - 1 ? "/" : "");
  });
  try {
    return { text: plain, negated, foldersOnly, expression: new RegExp(`^${source.join("")}$`, "s") };
  } catch {
    return null; // such as [z-a], which fits nothing
  }
}

function segment(glob) {
  const tokens = glob.match(/\\.|\[[!^]?\]?[^\]]*\]|[^]/g) ?? [];
  return tokens.map((token) => {
    if (token === "*") return "[^/]*";
    if (token === "?") return "[^/]";
    if (token.length > 2 && token.startsWith("[")) return `[${token.slice(1, -1).replace(/^!/, "^").replace(/\\/g, "\\\\")}]`;
    return token.replace(/^\\(?=.)/, "").replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  }).join("");
}
