// A patch as git writes it, read into files and lines. Pure. A hunk's header says how many lines it
// has, so that a line which only looks like another file's header is what it is: a line.
//
// parsed(text, most) → {files: [{name, added, removed, lines: [{kind, text}]}], left}
// kind: meta | hunk | added | removed | same. `left`: lines that are not in it, of more than `most`.

const HUNK = /^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@/;

export function parsed(text, most = Infinity) {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const files = [];
  let file = null;
  let [before, after] = [0, 0]; // lines that the hunk still has, of either side
  for (const line of lines.slice(0, most)) {
    const inHunk = before > 0 || after > 0;
    if (!inHunk && line.startsWith("diff --git ")) {
      file = { name: named(line), added: 0, removed: 0, lines: [] };
      files.push(file);
      continue;
    }
    if (file === null) continue; // the mail header of format-patch
    const kind = inHunk ? kindOf(line) : (HUNK.test(line) ? "hunk" : "meta");
    if (kind === "hunk") {
      const [, old = "1", fresh = "1"] = line.match(HUNK);
      [before, after] = [Number(old), Number(fresh)];
    }
    if (kind === "added" || kind === "same") after -= 1;
    if (kind === "removed" || kind === "same") before -= 1;
    if (kind === "added") file.added += 1;
    if (kind === "removed") file.removed += 1;
    const better = kind === "meta" && line.match(/^(?:\+\+\+ b|rename to |--- a)\/?(.*)$/);
    if (better) file.name = better[1];
    file.lines.push({ kind, text: line });
  }
  return { files, left: Math.max(0, lines.length - most) };
}

function kindOf(line) {
  if (line.startsWith("+")) return "added";
  if (line.startsWith("-")) return "removed";
  return line.startsWith("\\") ? "meta" : "same";
}

// Both names are the same but for renames, which say theirs in a line of their own.
function named(line) {
  const names = line.slice("diff --git ".length);
  return names.slice(names.length / 2 + 0.5).replace(/^b\//, "");
}
