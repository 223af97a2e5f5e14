// The live page: reads what the server tells and shows it. Whatever comes from a client, like names of
// files, is set as text and never as HTML.

import { Plots } from "./plots.js";
import { follow } from "./stream.js";
import { count, duration, moment, percent, rate, speed } from "./words.js";

const AGAIN_MS = 3000;
const KEY = "glinthawk.key";
const find = (id) => document.getElementById(id);
const STATES = {
  validating: "checking", in_progress: "answering", finalizing: "finishing", completed: "completed",
  failed: "failed", expired: "expired", cancelling: "cancelling", cancelled: "cancelled",
};
let plots = null;
let hasEnded = false;

function make(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

// Only what has changed is written: readers of screens and selections stay where they are.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showLimit({ limit, is_idle: isIdle }) {
  const unknown = ["Not known while it runs", "Loads are told at the end of the run."];
  const known = limit ? [limit.name.replace(/ \(.*\)$/, ""), limit.advice] : unknown;
  const [says, advice] = isIdle ? ["Nothing to do", "No request waits, and none is under way."] : known;
  write(find("limit"), says.charAt(0).toUpperCase() + says.slice(1));
  write(find("advice"), advice);
  find("limit").parentElement.dataset.state = isIdle ? "idle" : "busy";
}

function figures(now) {
  const { recent } = now;
  const crossing = speed(recent.bytes_out + recent.bytes_back);
  return [
    ["Tokens a second", rate(recent.tokens_per_s), "", `${count(now.tokens)} generated`],
    ["Sequences", count(now.running), "", `${count(now.waiting)} waiting`],
    ["Batches in flight", count(now.in_flight), `of ${count(now.most_in_flight)}`, `${count(now.preemptions)} pre-emptions`],
    ["KV room", percent(now.kv_room ? now.kv_used / now.kv_room : 0), "used", `${count(now.kv_used)} of ${count(now.kv_room)} tokens`],
    ["Link", crossing[0], crossing[1], "both ways"],
  ];
}

function showFigures(now) {
  const list = find("figures");
  for (const [index, [title, value, unit, more]] of figures(now).entries()) {
    const figure = list.children[index] ?? list.appendChild(newFigure(title));
    const [number, small] = figure.querySelector(".value").children;
    write(number, value);
    write(small, unit);
    write(figure.querySelector(".more"), more);
  }
}

function newFigure(title) {
  const figure = make("div", "");
  const value = make("dd", "", "value");
  value.append(make("span", ""), " ", make("small", ""));
  figure.append(make("dt", title), value, make("dd", "", "more"));
  return figure;
}

function bar(className) {
  const track = make("span", "", `bar ${className}`);
  track.setAttribute("aria-hidden", "true");
  track.append(document.createElement("i"));
  return track;
}

// Rows by their keys, in the order given; those that are gone are removed.
function rows(table, entries, key, create, fill) {
  const body = table.tBodies[0];
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  entries.forEach((entry, index) => {
    const row = old.get(key(entry)) ?? create();
    row.dataset.key = key(entry);
    old.delete(key(entry));
    fill(row, entry);
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
  for (const row of old.values()) row.remove();
}

function newRow(...cells) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  row.append(head, ...cells.map((className) => make("td", "", className)));
  return row;
}

function newJob() {
  const row = newRow("", "number");
  const [job, progress, end] = row.cells;
  job.append(make("span", ""), make("small", ""), make("small", ""));
  progress.append(bar("job"), make("span", ""), make("small", "", "failed"));
  end.append(make("span", ""), make("small", ""));
  return row;
}

function fillJob(row, job, now) {
  const [head, progress, end] = row.cells;
  const isOver = ["completed", "failed", "expired", "cancelled"].includes(job.status);
  row.toggleAttribute("data-over", isOver);
  write(head.children[0], job.name);
  write(head.children[1], STATES[job.status] ?? job.status);
  write(head.children[2], job.note);
  progress.querySelector("i").style.width = `${job.total ? (100 * job.done) / job.total : 0}%`;
  write(progress.children[1], job.total ? `${count(job.done)} of ${count(job.total)}` : "not begun");
  write(progress.children[2], job.failed ? `${count(job.failed)} failed` : "");
  const [says, more] = ending(job, now);
  write(end.children[0], says);
  write(end.children[1], more);
}

function ending(job, now) {
  const due = job.deadline ? `due ${moment(job.deadline, now)}` : "";
  if (job.ended) return [moment(job.ended, now), `${duration(now - job.ended)} ago`];
  if (job.expected_end) return [`in ${duration(job.expected_end - now)}`, due || `about ${moment(job.expected_end, now)}`];
  return ["–", due];
}

function newPlace() {
  const row = newRow("", "");
  const [, load, room] = row.cells;
  load.append(bar("load"), make("span", ""));
  room.append(bar("room"), make("span", ""));
  return row;
}

function fillPlace(row, place) {
  const [head, load, room] = row.cells;
  write(head, place.name);
  load.querySelector("i").style.width = `${100 * (place.load ?? 0)}%`;
  write(load.children[1], place.load === null ? "–" : percent(place.load));
  const used = place.kv_room ? place.kv_used / place.kv_room : 0;
  room.querySelector("i").style.width = `${100 * used}%`;
  write(room.children[1], `${percent(used)} of ${count(place.kv_room)} tokens`);
}

function showChanges({ changes, at }) {
  const list = find("changes");
  const known = list.children.length && list.dataset.newest === String(changes.at(-1)?.at);
  if (known || !changes.length) return;
  list.dataset.newest = changes.at(-1).at;
  list.replaceChildren(...changes.toReversed().map((change) => {
    const entry = make("li", "");
    const time = make("time", moment(change.at, at));
    time.dateTime = new Date(1000 * change.at).toISOString();
    entry.append(time, make("span", change.says));
    return entry;
  }));
}

function show(now) {
  find("key").hidden = true;
  find("live").hidden = false;
  document.title = `${now.title} – glinthawk`;
  write(find("title"), now.title);
  showLimit(now);
  showFigures(now);
  find("no-jobs").hidden = now.jobs.length > 0;
  find("jobs").hidden = now.jobs.length === 0;
  rows(find("jobs"), now.jobs, (job) => job.id, newJob, (row, job) => fillJob(row, job, now.at));
  rows(find("places"), now.places, (place) => place.name, newPlace, fillPlace);
  showChanges(now);
  plots ??= new Plots(find("plots"));
  plots.take(now.points, now.is_whole);
}

function say(state, words) {
  find("connection").dataset.state = state;
  write(find("connection"), words);
}

function take(name, data) {
  hasEnded = name === "end";
  if (!hasEnded) show(data);
  say(hasEnded ? "waiting" : "live", hasEnded ? "ended" : "live");
}

async function run() {
  try {
    await follow("page/events", sessionStorage.getItem(KEY), take);
  } catch (error) {
    if (error.status === 401) return askForKey();
  }
  if (!hasEnded) say("lost", "no answer; trying again");
  setTimeout(run, AGAIN_MS);
}

function askForKey() {
  const isWrong = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  find("key").hidden = false;
  find("live").hidden = true;
  say("waiting", isWrong ? "no such key" : "a key is needed");
  find("key-text").focus();
}

find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key-text").value.trim());
  find("key-text").value = "";
  run();
});
run();
