
// One question as a card: its time line, and a panel for each compared system.

const LEAST_TILE = 27; // Pixels; a narrower strip scrolls instead.
const MOST_SIGNED = 22; // Frames in a strip that leave room for signs of who kept them.
const WIDEST_TILE = 10; // Percent of the strip's width.
const LONG_TEXT = 500; // Characters that are shown whole.
const LONG_OPTION = 240; // The same of an option, whose column is narrower.

const seconds = (value) => `${Number(value).toFixed(1)} s`;
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const letter = (place) => (place < 26 ? String.fromCharCode(65 + place) : String(place + 1));
const insideSpans = (spans, at) => spans.some(([low, high]) => low <= at && at <= high);

function swatch(system) {
  const picture = drawing("svg", { class: `swatch c${system.color}`, viewBox: "-7 -7 14 14", "aria-hidden": "true" });
  picture.append(drawing("path", { d: system.shape }));
  return picture;
}

/** A long text is cut after four lines until it is asked for. */
function longText(name, className, text, most = LONG_TEXT) {
  const node = element(name, { class: className, dir: "auto" }, text);
  if (text.length < most) return [node];
  node.classList.add("long");
  const button = element("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Show all");
  button.addEventListener("click", () => {
    const cut = node.classList.toggle("long");
    button.textContent = cut ? "Show all" : "Show less";
    button.setAttribute("aria-expanded", String(!cut));
  });
  return [node, button];
}

/** Left edges in percent: as near to `wanted` centres as tiles of `width` can stand side by side. */
function sideBySide(wanted, width) {
  const blocks = [];
  wanted.forEach((centre, place) => {
    blocks.push({ sum: centre - width / 2 - place * width, count: 1 });
    while (blocks.length > 1) {
      const [left, right] = blocks.slice(-2);
      if (left.sum / left.count <= right.sum / right.count) break;
      blocks.splice(-2, 2, { sum: left.sum + right.sum, count: left.count + right.count });
    }
  });
  const offsets = blocks.flatMap((block) => Array(block.count).fill(block.sum / block.count));
  const most = 100 - width * wanted.length;
  return offsets.map((offset, place) => Math.min(Math.max(offset, 0), Math.max(most, 0)) + place * width);
}

function tileStyle(node, strip, place) {
  const count = strip.seconds.length;
  node.style.backgroundSize = `${count * 100}% 100%`;
  node.style.backgroundPosition = `${count > 1 ? (place * 100) / (count - 1) : 0}% 0`;
  node.style.aspectRatio = `${strip.tile[0]} / ${strip.tile[1]}`;
}

function tile(strip, place, label) {
  const node = element("div", { class: strip.sprite ? "tile" : "tile empty", role: "img", "aria-label": label, title: label });
  tileStyle(node, strip, place);
  if (!strip.sprite) node.append(element("span", { "aria-hidden": "true" }, seconds(strip.seconds[place])));
  return node;
}

/** Time line of a question: curves, frames, ruler, and a lane for each system. */
function timeLine(question, strip, answers, systems) {
  const length = Math.max(strip.end - strip.start, 1e-6);
  const across = (at) => Math.min(Math.max((100 * (at - strip.start)) / length, 0), 100);
  const inner = element("div", { class: "inner" });
  const row = (kind, name, ...content) => {
    const track = element("div", { class: "track" });
    question.spans.forEach(([low, high]) => {
      const band = element("div", { class: "band" });
      band.style.left = `${across(low)}%`;
      band.style.width = `${Math.max(across(high) - across(low), 0.3)}%`;
      track.append(band);
    });
    track.append(...content);
    inner.append(element("div", { class: `row ${kind}` }, name, track));
    return track;
  };
  const name = (...parts) => element("div", { class: "name" }, ...parts);
  addCurves(answers, systems, across, row, name);
  addFilm(question, strip, answers, systems, across, row, name, inner);
  const ruler = row("ruler", name(), ...rulerTicks(strip, across));
  ruler.setAttribute("aria-hidden", "true");
  answers.filter((answer) => (answer.kept || answer.windows) && answer.status !== "failed").forEach((answer) => addLane(answer, systems[answer.system], across, row, name));
  return element("div", { class: "time", tabindex: "0", role: "group", "aria-label": `time line, ${seconds(strip.start)} to ${seconds(strip.end)}` }, inner);
}

function rulerTicks(strip, across) {
  const parts = 4;
  return Array.from({ length: parts + 1 }, (_, part) => {
    const at = strip.start + ((strip.end - strip.start) * part) / parts;
    const label = element("span", { class: "tick-label" }, seconds(at));
    label.style.left = `${across(at)}%`;
    return label;
  });
}

function addCurves(answers, systems, across, row, name) {
  const drawn = answers.filter((answer) => answer.curve && answer.curve.length);
  if (!drawn.length) return;
  const legend = name();
  const picture = drawing("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
  const points = [];
  const words = drawn.map((answer, place) => {
    const system = systems[answer.system];
    const scores = answer.curve.map(([, score]) => score);
    const low = Math.min(...scores);
    const high = Math.max(...scores);
    const up = (score) => (high > low ? 94 - (88 * (score - low)) / (high - low) : 50);
    const path = answer.curve.map(([at, score]) => `${across(at).toFixed(2)},${up(score).toFixed(2)}`).join(" ");
    picture.append(drawing("polyline", { class: `curve c${system.color} d${drawn.length > 1 ? place % 5 : 0}`, points: path }));
    answer.curve.forEach(([at, score]) => {
      const point = element("i", { class: `point c${system.color}`, title: `${system.name}: ${score} at ${seconds(at)}` });
      point.style.left = `${across(at)}%`;
      point.style.top = `${up(score)}%`;
      points.push(point);
    });
    const part = answer.numScores ? `${answer.curve.length} of ${answer.numScores} scores drawn` : "";
    const range = `${answer.curveName || "score"} of ${system.name}, ${low} to ${high}${part && `; ${part}`}`;
    legend.append(element("span", { title: range }, swatch(system), system.name, answer.curveName ? ` (${answer.curveName})` : ""));
    if (part) legend.append(element("span", { class: "part" }, part));
    return `${range}, highest at ${seconds(answer.curve[scores.indexOf(high)][0])}`;
  });
  picture.setAttribute("aria-label", `scores per frame: ${words.join("; ")}`);
  row("curves", legend, picture, ...(points.length <= 400 ? points : []));
}

function keptBy(answers, place) {
  return answers.filter((answer) => (answer.tiles || []).includes(place));
}

function addFilm(question, strip, answers, systems, across, row, name, inner) {
  const count = strip.seconds ? strip.seconds.length : 0;
  if (!count) {
    if (strip.problem) row("film", name(), element("p", { class: "warn" }, `no frames: ${strip.problem}`));
    return;
  }
  const width = Math.min(100 / count, WIDEST_TILE);
  const lefts = sideBySide(strip.seconds.map(across), width);
  inner.style.setProperty("--least", `${count * LEAST_TILE}px`);
  const leads = drawing("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  const tiles = strip.seconds.map((at, place) => {
    const keepers = keptBy(answers, place).map((answer) => systems[answer.system]);
    const label = [`frame at ${seconds(at)} of ${question.video}`];
    if (keepers.length) label.push(`kept by ${keepers.map((system) => system.name).join(", ")}`);
    if (insideSpans(question.spans, at)) label.push("inside the true span");
    const node = tile(strip, place, label.join(", "));
    node.style.left = `${lefts[place]}%`;
    node.style.width = `${width}%`;
    if (keepers.length) node.classList.add("kept");
    if (keepers.length && count <= MOST_SIGNED) {
      node.append(element("span", { class: "swatches", "aria-hidden": "true" }, ...keepers.map(swatch)));
    }
    leads.append(drawing("line", { class: keepers.length ? "lead kept" : "lead", x1: lefts[place] + width / 2, y1: 0, x2: across(at), y2: 100 }));
    return node;
  });
  const note = strip.problem ? element("span", { class: "warn", title: strip.problem }, strip.problem) : element("span", {}, `${count} frames`);
  const film = row("film", name(note), ...tiles);
  film.style.aspectRatio = `${strip.tile[0] * 100} / ${strip.tile[1] * width}`;
  row("leads", name(), leads);
}

function addLane(answer, system, across, row, name) {
  const kept = answer.kept || [];
  const marks = kept.map((at) => {
    const mark = element("span", { class: "at", title: `${system.name} kept ${seconds(at)}` }, swatch(system));
    mark.style.left = `${across(at)}%`;
    return mark;
  });
  const windows = (answer.windows || []).slice(0, 5).reverse().map(([low, high, score], place, all) => {
    const best = place === all.length - 1;
    const bar = element("span", { class: `window c${system.color}${best ? " best" : ""}`, title: `${seconds(low)} to ${seconds(high)}, score ${score}` });
    bar.style.left = `${across(low)}%`;
    bar.style.width = `${across(high) - across(low)}%`;
    return bar;
  });
  const track = row("lane", name(element("span", { title: system.name }, swatch(system), system.name)), ...windows, ...marks);
  const words = [];
  if (kept.length) words.push(`kept ${kept.map(seconds).join(", ")}`);
  if (windows.length) words.push(`best span ${answer.windows[0].slice(0, 2).map(seconds).join(" to ")}`);
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", `${system.name} ${words.join("; ")}`);
}

function verdict(answer) {
  if (answer.status === "failed") return ["! failed", "is-wrong"];
  if (answer.correct === true) return ["✓ right", "is-right"];
  if (answer.correct === false) return ["✗ wrong", "is-wrong"];
  if (answer.value !== undefined) return [`${answer.value.toFixed(1)} %`, ""];
  return [answer.status === "unlabelled" ? "unlabelled" : "", "dim"];
}

/** One system's answer: what it kept, what it said, how it scored the options. */
function panel(question, strip, answer, system) {
  const [word, tone] = verdict(answer);
  const head = element("h4", {}, swatch(system), element("bdi", {}, system.name));
  if (system.blind) head.append(" ", element("em", { class: "tag" }, `no video: ${system.blind}`));
  const made = element("section", { class: `panel c${system.color}`, "aria-label": `${system.name}: ${word || "answer"}` });
  made.append(element("header", {}, head, element("span", { class: `verdict ${tone}` }, word)));
  if (answer.status === "failed") {
    made.append(...longText("p", "said-text", answer.reason || "no reason was kept"));
    return made;
  }
  const frames = keptFrames(question, strip, answer);
  if (frames) made.append(frames);
  if (question.options) made.append(optionBars(question, answer));
  if (answer.windows) made.append(windowList(answer));
  if (answer.text && !answer.windows && (!question.options || answer.option === undefined)) made.append(...longText("p", "said-text", answer.text));
  return made;
}

function keptFrames(question, strip, answer) {
  if (!answer.tiles || !answer.kept) return null;
  const list = element("ul", { class: "frames", "aria-label": "kept frames" });
  list.style.setProperty("--tile-width", `${strip.tile[0]}px`);
  answer.kept.forEach((at, place) => {
    if (!(answer.tiles[place] >= 0)) return;
    const inside = insideSpans(question.spans, at);
    const label = `frame at ${seconds(at)} of ${question.video}${inside ? ", inside the true span" : ""}`;
    const stamp = element("span", { class: "stamp", "aria-hidden": "true" }, `${seconds(at)}${inside ? " ●" : ""}`);
    list.append(element("li", inside ? { class: "inside" } : {}, tile(strip, answer.tiles[place], label), stamp));
  });
  const missing = answer.kept.length - list.children.length;
  if (missing) list.append(element("li", { class: "dim missing" }, `${missing} kept frame${missing > 1 ? "s" : ""} without a picture`));
  return list;
}

function optionBars(question, answer) {
  const list = element("ol", { class: "options" });
  const shares = answer.shares;
  const scores = (answer.scores || []).filter((score) => score !== null);
  const low = Math.min(...scores);
  const high = Math.max(...scores);
  question.options.forEach((text, place) => {
    const chosen = answer.option === place;
    const truth = question.truth === place;
    const known = shares ? shares[place] : (answer.scores || [])[place];
    const has = known !== null && known !== undefined;
    const part = !has ? 0 : shares ? known : high > low ? 0.06 + (0.94 * (known - low)) / (high - low) : 1;
    const item = element("li", { class: `option${chosen ? " chosen" : ""}` });
    const remark = [chosen ? "chosen" : "", truth ? "right answer" : ""].filter(Boolean).join(", ");
    item.append(
      element("span", { class: `mark ${truth ? "is-right" : chosen && question.truth !== undefined ? "is-wrong" : ""}`, "aria-hidden": "true" }, truth ? "✓" : chosen ? (question.truth === undefined ? "●" : "✗") : ""),
      element("div", { class: "words" }, ...longText("span", "", `${letter(place)}. ${text}`, LONG_OPTION)),
      element("span", { class: "number" }, has ? (shares ? percent(known) : known.toFixed(2)) : "–"),
    );
    const fill = element("i");
    fill.style.width = `${100 * Math.min(Math.max(part, 0), 1)}%`;
    item.append(element("div", { class: "bar", "aria-hidden": "true" }, fill));
    if (remark) item.append(element("span", { class: `remark ${truth ? "is-right" : question.truth !== undefined ? "is-wrong" : "dim"}` }, remark));
    list.append(item);
  });
  return list;
}

function windowList(answer) {
  const list = element("ol", { class: "spans-list" });
  answer.windows.slice(0, 5).forEach(([low, high, score], place) => {
    list.append(element("li", place ? {} : { class: "best" }, `${seconds(low)} – ${seconds(high)}`, element("span", { class: "dim" }, ` score ${score}`)));
  });
  return list;
}

/** The whole card of one question. */
function questionCard(question, data, picked) {
  const strip = data.strips[question.strip] || { seconds: [], tile: [1, 1], start: 0, end: 0 };
  const answers = question.answers.filter((answer) => picked.has(answer.system));
  answers.sort((a, b) => a.system - b.system);
  const card = element("article", { class: "question", tabindex: "-1", "data-key": question.key });
  if (strip.sprite) card.style.setProperty("--sprite", `url("${strip.sprite}")`);
  const link = element("button", { type: "button", class: "quiet link", "aria-label": `Copy the link to ${question.id}` }, "Copy link");
  const ids = element("p", { class: "ids" });
  if (question.type) ids.append(element("span", { class: "tag" }, question.type));
  ids.append(element("bdi", {}, question.id), element("bdi", {}, question.video), link);
  const [title, ...more] = longText("h3", "", question.text || "(no text)");
  card.append(ids, title, ...more, answerLine(question));
  const hasTime = strip.end > strip.start && ((strip.seconds || []).length || question.spans.length || answers.some((answer) => answer.kept || answer.windows));
  if (hasTime) card.append(timeLine(question, strip, answers, data.systems));
  else if (strip.problem) card.append(element("p", { class: "warn" }, `no frames: ${strip.problem}`));
  const panels = answers.map((answer) => panel(question, strip, answer, data.systems[answer.system]));
  if (panels.length) card.append(element("div", { class: panels.length === 1 ? "panels one" : "panels" }, ...panels));
  else card.append(element("p", { class: "dim" }, "Choose a system to compare above."));
  return card;
}

function answerLine(question) {
  const line = element("p", { class: "answer-line" });
  if (question.truthText) {
    const place = question.truth !== undefined && question.options ? `${letter(question.truth)}. ` : "";
    line.append(element("span", { class: "is-right" }, "✓ "), "right answer: ", ...longText("strong", "", `${place}${question.truthText}`));
  } else {
    line.append(element("span", { class: "dim" }, question.spans.length ? "" : "unlabelled"));
  }
  if (question.spans.length) {
    const spans = question.spans.map(([low, high]) => `${Number(low).toFixed(1)} – ${Number(high).toFixed(1)} s`).join(", ");
    line.append(element("span", { class: "dim" }, `${question.truthText ? " · " : ""}true span ${spans}`));
  }
  return line;
}
