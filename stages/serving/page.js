"use strict";
// The page of vqa serve. Texts of users and of the server become text nodes only, never markup.

const MOST_ANSWERS = 20;
const FIRST_OPTIONS = 3;
const NEAR = 3, NEAR_ON_PHONES = 8; // percent of the time line between marks whose numbers touch
const PAUSES = [500, 1000, 2000]; // milliseconds between attempts
const byId = (id) => document.getElementById(id);
const form = byId("form"), file = byId("file"), player = byId("player"), progress = byId("progress");
const question = byId("question"), options = byId("options"), answers = byId("answers");
let limits = { upload_bytes: Infinity, question_characters: 2000, option_characters: 500, options: 10 };
let openEnded = false;
let video = null; // what the server told of the chosen video
let looking = null; // the promise of it
let turn = 0; // which choice of a file is the latest
let asked = 0;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

const clock = (seconds) => {
  const tenths = Math.round(Math.max(seconds, 0) * 10);
  const rest = tenths % 600, minutes = (tenths - rest) / 600;
  const hours = Math.floor(minutes / 60);
  const front = hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}` : `${minutes}`;
  return `${front}:${(rest / 10).toFixed(1).padStart(4, "0")}`;
};
const duration = (seconds) => seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`;
const megabytes = (bytes) => `${Math.round(bytes / 1e5) / 10} MB`;

function explain(error) {
  byId("error").textContent = error ? error.message : "";
}

function problemOf(status, text) {
  try {
    const { message, hint } = JSON.parse(text).error;
    return Object.assign(new Error(hint ? `${message} (${hint})` : message), { status });
  } catch {
    return Object.assign(new Error(`The server said ${status}.`), { status });
  }
}

const gone = () => new Error("The server does not answer. Was it stopped? Start vqa serve again and load this page anew.");

// --- the video -------------------------------------------------------------------------------

function send(chosen, number) {
  return new Promise((resolve, reject) => {
    if (number !== turn) throw new Error("another video was chosen");
    const request = new XMLHttpRequest();
    request.open("POST", "/api/videos");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      if (number !== turn) return request.abort();
      if (event.lengthComputable) progress.value = event.loaded / event.total;
    };
    request.upload.onload = () => {
      if (number === turn) byId("video-status").textContent = "looking at the video …";
    };
    request.onload = () => request.status === 201
      ? resolve(JSON.parse(request.responseText))
      : reject(problemOf(request.status, request.responseText));
    request.onerror = () => reject(gone());
    request.onabort = () => reject(new Error("another video was chosen"));
    request.send(chosen);
  });
}

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

// Others are served at this moment: it is tried again, a few times.
async function patiently(attempt) {
  for (const milliseconds of PAUSES) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 503) throw error;
    }
    await pause(milliseconds);
  }
  return attempt();
}

async function look(chosen) {
  const number = ++turn;
  video = null;
  const status = byId("video-status");
  explain(null);
  if (chosen.size > limits.upload_bytes) {
    status.textContent = "";
    throw new Error(`This file has ${megabytes(chosen.size)}; ${megabytes(limits.upload_bytes)} are the limit here (vqa serve --max-upload).`);
  }
  progress.value = 0;
  progress.hidden = false;
  status.textContent = "sending the video …";
  try {
    const found = await patiently(() => send(chosen, number));
    if (number === turn) {
      video = found;
      status.textContent = `${clock(found.duration)} long, ${found.width} × ${found.height}; ${found.seen} frames looked at in ${duration(found.seconds)}`;
    }
    return found;
  } catch (error) {
    if (number === turn) status.textContent = "";
    throw error;
  } finally {
    if (number === turn) progress.hidden = true;
  }
}

// A promise that was broken is not kept: who asks again sends the file again.
function startLooking(chosen) {
  const started = look(chosen);
  looking = started;
  started.catch((error) => {
    if (looking !== started) return;
    explain(error);
    looking = null;
  });
  return started;
}

function choose() {
  const chosen = file.files[0];
  if (player.src) URL.revokeObjectURL(player.src);
  player.hidden = true;
  player.removeAttribute("src");
  if (!chosen) {
    turn += 1;
    video = looking = null;
    byId("video-status").textContent = "";
    return;
  }
  player.src = URL.createObjectURL(chosen);
  startLooking(chosen);
}

// --- the question ------------------------------------------------------------------------------

const letter = (number) => String.fromCharCode(65 + number);

function renumber() {
  [...options.children].forEach((row, number) => {
    row.querySelector("label").textContent = letter(number);
    row.querySelector("input").setAttribute("aria-label", `Option ${letter(number)}`);
    row.querySelector("button").setAttribute("aria-label", `Remove option ${letter(number)}`);
  });
  byId("add").disabled = options.children.length >= limits.options;
  byId("options-help").textContent = openEnded
    ? "With none the system writes its own answer."
    : "Two or more.";
}

function addOption() {
  const number = options.children.length;
  const input = element("input", { type: "text", id: `option-${++asked}`, maxLength: limits.option_characters, autocomplete: "off" });
  const remove = element("button", { type: "button", title: "remove" }, "×");
  const row = element("div", { className: "option" }, element("label", { htmlFor: input.id, className: "dim" }, letter(number)), input, remove);
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling || row.previousElementSibling;
    row.remove();
    renumber();
    (next ? next.querySelector("input") : byId("add")).focus();
  });
  options.append(row);
  renumber();
  return input;
}

async function post(body) {
  let response;
  try {
    response = await fetch("/api/answers", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    throw gone();
  }
  const text = await response.text();
  if (!response.ok) throw problemOf(response.status, text);
  return JSON.parse(text);
}

async function ask() {
  const chosen = file.files[0];
  const given = [...options.querySelectorAll("input")].map((input) => input.value.trim()).filter(Boolean);
  if (!chosen) {
    file.focus();
    throw new Error("Choose a video first.");
  }
  if (!question.value.trim()) {
    question.focus();
    throw new Error("Type a question.");
  }
  const found = video || await (looking ?? startLooking(chosen));
  const body = { video: found.video, question: question.value.trim(), options: given };
  try {
    return await patiently(() => post(body));
  } catch (error) {
    if (error.status !== 404 || file.files[0] !== chosen) throw error;
    // Forgotten by the server, for others were asked about since: it is looked at again.
    const again = await startLooking(chosen);
    return patiently(() => post({ ...body, video: again.video }));
  }
}

async function submit(event) {
  event.preventDefault();
  const button = byId("ask"), asking = byId("asking");
  if (button.disabled) return;
  explain(null);
  button.disabled = true;
  asking.textContent = "asking …";
  try {
    const chosen = file.files[0];
    show(await ask(), chosen);
  } catch (error) {
    explain(error);
  } finally {
    button.disabled = false;
    asking.textContent = "";
  }
}

// --- the answer --------------------------------------------------------------------------------

function optionTable(answer) {
  const body = element("tbody");
  answer.options.forEach((option, number) => {
    const share = 100 * option.probability, best = number === answer.answer;
    const bar = element("div", { className: "bar" });
    bar.style.width = `${share.toFixed(1)}%`;
    body.append(element("tr", { className: best ? "best" : "" },
      element("th", { scope: "row", dir: "auto" }, `${best ? "✓ " : ""}${option.text}`),
      element("td", {}, bar),
      element("td", { className: "share" }, `${share.toFixed(1)} %`)));
  });
  return element("table", { "aria-label": "options and how they share one" }, body);
}

function timeLine(answer, seek) {
  const [start, end] = answer.bounds, span = Math.max(end - start, 1e-6);
  const scores = answer.frames.map((frame) => frame.score).filter((score) => score !== null);
  const low = Math.min(...scores), high = Math.max(...scores);
  const across = (time) => 100 * Math.min(Math.max((time - start) / span, 0), 1);
  const up = (score) => score === null || high <= low ? 50 : 88 - 76 * (score - low) / (high - low);
  const kept = answer.keyframes.map((frame) => clock(frame.time)).join(", ");
  const told = scores.length ? `; scores from ${low.toFixed(3)} to ${high.toFixed(3)}` : "";
  const line = element("div", { className: "line", role: "group", "aria-label": `${answer.frames.length} frames seen, kept: ${kept}${told}` });
  const places = answer.keyframes.map((frame) => across(frame.time));
  const gap = Math.min(...places.slice(1).map((place, number) => place - places[number]));
  if (gap < NEAR_ON_PHONES) line.classList.add(gap < NEAR ? "near" : "near-on-phones");
  if (scores.length > 1) {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const curve = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    picture.setAttribute("viewBox", "0 0 100 100");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    curve.setAttribute("points", answer.frames.map((frame) => `${across(frame.time)},${up(frame.score)}`).join(" "));
    picture.append(curve);
    line.append(picture);
  }
  let number = 0;
  for (const frame of answer.frames) {
    const left = `${across(frame.time)}%`, top = `${up(frame.score)}%`;
    const score = frame.score === null ? "" : `, score ${frame.score.toFixed(3)}`;
    const title = `frame ${frame.frame} at ${clock(frame.time)}${score}`;
    if (frame.kept) {
      const stem = element("div", { className: "stem" });
      Object.assign(stem.style, { left, top });
      const mark = element("button", { type: "button", className: "kept", title, "aria-label": `kept: ${title}` }, String(++number));
      Object.assign(mark.style, { left, top });
      mark.addEventListener("click", () => seek(frame.time));
      line.append(stem, mark);
    } else {
      const dot = element("div", { className: "dot", title });
      Object.assign(dot.style, { left, top });
      line.append(dot);
    }
  }
  const ticks = element("div", { className: "ticks dim", "aria-hidden": "true" });
  for (let part = 0; part <= 4; part += 1) {
    const tick = element("span", {}, clock(start + span * part / 4));
    tick.style.left = `${25 * part}%`;
    ticks.append(tick);
  }
  return [line, ticks];
}

function strip(answer, frames, seek, numbered) {
  const list = element("ol", { className: "strip" });
  frames.forEach((frame, place) => {
    const score = frame.score === null ? "" : `, score ${frame.score.toFixed(3)}`;
    const image = element("img", { alt: `frame at ${clock(frame.time)}`, loading: "lazy", src: `/api/videos/${encodeURIComponent(answer.video)}/frames/${frame.frame}.jpg` });
    const button = element("button", { type: "button", title: "show in the video" }, image);
    if (numbered) button.append(element("b", { "aria-hidden": "true" }, String(place + 1)));
    button.append(numbered ? `${clock(frame.time)}${score}` : clock(frame.time));
    button.addEventListener("click", () => seek(frame.time));
    list.append(element("li", { className: numbered || frame.kept ? "is-kept" : "" }, button));
  });
  return list;
}

function show(answer, chosen) {
  const seek = (time) => {
    if (file.files[0] !== chosen || player.hidden) return;
    player.pause();
    player.currentTime = time;
  };
  const every = element("details", {}, element("summary", {}, `all ${answer.frames.length} frames seen`));
  every.addEventListener("toggle", () => {
    if (every.open && every.children.length < 2) every.append(strip(answer, answer.frames, seek, false));
  });
  const result = answer.options.length
    ? optionTable(answer)
    : element("p", { className: "written", dir: "auto" }, answer.text || "(nothing was written)");
  const facts = `${chosen.name}: ${answer.keyframes.length} of ${answer.frames.length} frames kept by ${answer.rule}, answered in ${duration(answer.seconds)}`;
  const article = element("article", {}, element("h2", { dir: "auto" }, answer.question), result,
    ...timeLine(answer, seek), strip(answer, answer.keyframes, seek, true), every,
    element("p", { className: "dim facts" }, facts));
  byId("empty").hidden = true;
  answers.prepend(article);
  while (answers.querySelectorAll("article").length > MOST_ANSWERS) answers.lastElementChild.remove();
}

// --- the start ---------------------------------------------------------------------------------

async function begin() {
  for (let number = 0; number < FIRST_OPTIONS; number += 1) addOption();
  let found;
  try {
    const response = await fetch("/api/system");
    found = await response.json();
  } catch {
    return explain(gone());
  }
  limits = found.limits;
  openEnded = found.open_ended;
  byId("who").textContent = `${found.notes.join("; ")}; ${found.system.keep} of ${found.system.frames} frames by ${found.system.select}, on ${found.system.device}`;
  byId("note").textContent = found.warning;
  byId("note").hidden = !found.warning;
  byId("file-help").textContent = `It stays on this machine. Up to ${megabytes(limits.upload_bytes)}.`;
  question.maxLength = limits.question_characters;
  renumber();
}

player.addEventListener("loadedmetadata", () => { player.hidden = false; });
player.addEventListener("error", () => { player.hidden = true; });
file.addEventListener("change", choose);
byId("add").addEventListener("click", () => addOption().focus());
form.addEventListener("submit", submit);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
begin();
