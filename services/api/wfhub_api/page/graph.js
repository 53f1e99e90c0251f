// A workflow's graph as a picture: each task in the column behind the last one that it needs.

import { shown, svg } from "./dom.js";

const NODES_MAX = 150;
const EDGES_MAX = 600;
const [WIDE, HIGH, GAP_X, GAP_Y] = [168, 34, 44, 12]; // px
const NAME_CHARS_MAX = 20;

// null: too large to be drawn.
export function graph(tasks) {
  const edges = tasks.reduce((sum, task) => sum + task.needs.length, 0);
  if (tasks.length > NODES_MAX || edges > EDGES_MAX) return null;
  const places = placed(tasks);
  const columns = Math.max(...[...places.values()].map((p) => p.column)) + 1;
  const rows = Math.max(...[...places.values()].map((p) => p.row)) + 1;
  const [width, height] = [columns * (WIDE + GAP_X) - GAP_X + 4, rows * (HIGH + GAP_Y) - GAP_Y + 4];
  const picture = svg("svg", { viewBox: `-2 -2 ${width} ${height}`, width, height, role: "group", "aria-label": "Graph of tasks" });
  for (const task of tasks) picture.append(...task.needs.map((need) => edge(places.get(need), places.get(task.name))));
  for (const task of tasks) picture.append(node(task, places.get(task.name)));
  const frame = document.createElement("div");
  frame.className = "scroll graph";
  frame.append(picture);
  return frame;
}

// By name; the document has no cycles, and a task may stand before what it needs.
export function placed(tasks) {
  const columns = new Map();
  for (let n = 0, changed = true; changed && n <= tasks.length; n += 1) {
    changed = false;
    for (const task of tasks) {
      const column = Math.max(0, ...task.needs.map((need) => (columns.get(need) ?? 0) + 1));
      if (columns.get(task.name) !== column) changed = true;
      columns.set(task.name, column);
    }
  }
  const filled = [];
  return new Map(
    tasks.map(({ name }) => {
      const column = columns.get(name);
      filled[column] = (filled[column] ?? 0) + 1;
      return [name, { column, row: filled[column] - 1 }];
    }),
  );
}

const left = ({ column }) => column * (WIDE + GAP_X);
const top = ({ row }) => row * (HIGH + GAP_Y);

function edge(from, to) {
  const [x1, y1] = [left(from) + WIDE, top(from) + HIGH / 2];
  const [x2, y2] = [left(to), top(to) + HIGH / 2];
  const bend = (x2 - x1) / 2;
  return svg("path", { class: "edge", d: `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
}

function node(task, place) {
  const name = task.name.length > NAME_CHARS_MAX ? `${task.name.slice(0, NAME_CHARS_MAX - 1)}…` : task.name;
  const at = { x: left(place), y: top(place) };
  const label = svg("text", { x: at.x + 26, y: at.y + HIGH / 2 + 4 });
  label.append(shown(name).textContent);
  const whole = svg("title");
  whole.append(shown(`${task.name}: ${task.state}`).textContent);
  return svg(
    "a",
    { href: `#/tasks/${task.task_id}`, class: `node ${task.state}` },
    whole,
    svg("rect", { ...at, width: WIDE, height: HIGH, rx: 6 }),
    svg("circle", { cx: at.x + 14, cy: at.y + HIGH / 2, r: 5 }),
    label,
  );
}
