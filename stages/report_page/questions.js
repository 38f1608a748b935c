
// The list of questions: filters, search, pages, keys, and the state of all that in the address.

const PER_PAGE = 20;

function startQuestions(data) {
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const questions = data.questions;
  questions.forEach((question) => { question.spans = question.spans || []; question.answers = question.answers || []; });
  const haystacks = new Map();
  let shown = questions;
  let state = emptyState();
  let here = null;

  function emptyState() {
    return { search: "", type: "", right: "", wrong: "", failed: "", disagree: false, page: 0, picked: new Set(data.picked), q: "" };
  }

  const numberOf = (name) => data.systems.findIndex((system) => system.name === name);
  const simple = (text) => text.normalize("NFKC").toLocaleLowerCase();

  function haystack(question) {
    if (!haystacks.has(question)) {
      const parts = [question.text, question.id, question.key, question.video, question.type, question.truthText, ...(question.options || [])];
      haystacks.set(question, simple(parts.filter(Boolean).join("\n")));
    }
    return haystacks.get(question);
  }

  /** Whether `test` holds for the named system's answer, or for any where the name is `*`. */
  function holds(question, name, test) {
    if (!name) return true;
    const number = name === "*" ? null : numberOf(name);
    return question.answers.some((answer) => (number === null || answer.system === number) && test(answer));
  }

  function disagree(question) {
    const said = question.answers
      .filter((answer) => state.picked.has(answer.system) && answer.status !== "failed")
      .map((answer) => JSON.stringify([answer.option, answer.option === undefined ? answer.text : "", answer.correct]));
    return new Set(said).size > 1;
  }

  function fits(question, words) {
    return (
      (!state.type || question.type === state.type) &&
      holds(question, state.right, (answer) => answer.correct === true) &&
      holds(question, state.wrong, (answer) => answer.correct === false) &&
      holds(question, state.failed, (answer) => answer.status === "failed") &&
      (!state.disagree || disagree(question)) &&
      (!words.length || words.every((word) => haystack(question).includes(word)))
    );
  }

  /** Finds, draws and tells; `keep` leaves the page where it is. */
  function update({ keep = false } = {}) {
    const words = simple(state.search).split(/\s+/).filter(Boolean);
    shown = questions.filter((question) => fits(question, words));
    if (!keep) state.page = 0;
    state.page = Math.min(state.page, Math.max(Math.ceil(shown.length / PER_PAGE) - 1, 0));
    draw();
    remember();
  }

  function draw() {
    const begin = state.page * PER_PAGE;
    const part = shown.slice(begin, begin + PER_PAGE);
    here = null;
    list.replaceChildren(...part.map((question) => questionCard(question, data, state.picked)));
    if (!part.length) list.append(element("p", { class: "none" }, "No question fits these filters."));
    const all = data.total > questions.length ? `${questions.length} shown of ${data.total}` : `${questions.length}`;
    const range = part.length ? `Questions ${begin + 1} to ${begin + part.length} of ${shown.length}` : "No question";
    byId("count").textContent = shown.length === questions.length ? `${range}${data.total > questions.length ? ` (chosen from ${data.total})` : ""}` : `${range} that fit (of ${all})`;
    const pages = Math.max(Math.ceil(shown.length / PER_PAGE), 1);
    document.querySelectorAll(".where").forEach((node) => { node.textContent = `page ${state.page + 1} of ${pages}`; });
    document.querySelectorAll("[data-turn]").forEach((button) => {
      const next = state.page + Number(button.dataset.turn);
      button.disabled = next < 0 || next >= pages;
    });
  }

  function address(key) {
    const parts = new URLSearchParams();
    if (key) parts.set("q", key);
    ["type", "right", "wrong", "failed", "search"].forEach((name) => { if (state[name] && !key) parts.set(name, state[name]); });
    if (state.disagree && !key) parts.set("disagree", "1");
    if (state.page && !key) parts.set("page", String(state.page + 1));
    const picked = [...state.picked].sort((a, b) => a - b);
    if (picked.join() !== data.picked.join()) {
      if (picked.length) picked.forEach((number) => parts.append("s", data.systems[number].name));
      else parts.append("s", "");
    }
    return parts.toString();
  }

  function remember() {
    const text = address(state.q);
    const bare = location.href.split("#")[0];
    if (text) history.replaceState(null, "", `${bare}#${text}`);
    else if (location.hash.includes("=")) history.replaceState(null, "", bare);
  }

  /** Takes the state from the address; false: the address names a part of the page, not a state. */
  function recall() {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return false;
    const parts = new URLSearchParams(text);
    state = emptyState();
    ["type", "right", "wrong", "failed", "search", "q"].forEach((name) => { state[name] = parts.get(name) || ""; });
    state.disagree = parts.get("disagree") === "1";
    state.page = Math.max((Number.parseInt(parts.get("page"), 10) || 1) - 1, 0);
    if (parts.has("s")) state.picked = new Set(parts.getAll("s").map(numberOf).filter((number) => number >= 0));
    showControls();
    return true;
  }

  function showControls() {
    ["search", "type", "right", "wrong", "failed"].forEach((name) => { byId(name).value = state[name]; });
    byId("disagree").checked = state.disagree;
    document.querySelectorAll("#picked input").forEach((box) => { box.checked = state.picked.has(Number(box.value)); });
  }

  /** Opens at a question; filters that hide it are cleared. */
  function openAt(key) {
    const words = simple(state.search).split(/\s+/).filter(Boolean);
    shown = questions.filter((question) => fits(question, words));
    let place = shown.findIndex((question) => question.key === key);
    if (place < 0) {
      Object.assign(state, { search: "", type: "", right: "", wrong: "", failed: "", disagree: false });
      shown = questions;
      place = shown.findIndex((question) => question.key === key);
      showControls();
    }
    if (place < 0) {
      state.q = "";
      draw();
      byId("count").textContent = `The question ${key} is not among those shown. ${byId("count").textContent}`;
      byId("questions").scrollIntoView();
      return;
    }
    state.page = Math.floor(place / PER_PAGE);
    draw();
    mark(list.children[place % PER_PAGE]);
  }

  function mark(card) {
    if (here) here.classList.remove("here");
    here = card;
    card.classList.add("here");
    card.setAttribute("aria-current", "true");
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "start", behavior: "instant" });
    state.q = card.dataset.key;
    remember();
  }

  function step(by) {
    const cards = [...list.querySelectorAll(".question")];
    if (!cards.length) return;
    const next = here ? cards.indexOf(here) + by : by > 0 ? 0 : cards.length - 1;
    if (next >= 0 && next < cards.length) return mark(cards[next]);
    if (!turn(by)) return;
    const fresh = list.querySelectorAll(".question");
    mark(by > 0 ? fresh[0] : fresh[fresh.length - 1]);
  }

  function turn(by) {
    const next = state.page + by;
    if (next < 0 || next * PER_PAGE >= shown.length) return false;
    state.page = next;
    state.q = "";
    draw();
    remember();
    return true;
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (event.key === "Escape" && target.id === "search") return target.blur();
    if (target.closest("input, select, textarea")) return;
    const inner = target.closest(".time, .scroll"); // Arrows scroll what can be scrolled.
    if (event.key === "j" || (event.key === "ArrowRight" && !inner)) step(1);
    else if (event.key === "k" || (event.key === "ArrowLeft" && !inner)) step(-1);
    else if (event.key === "c" && here) here.querySelector(".link").click();
    else if (event.key === "/") byId("search").focus();
    else return;
    event.preventDefault();
  }

  function fill() {
    const types = [...new Set(questions.map((question) => question.type).filter(Boolean))].sort();
    byId("type").append(...types.map((name) => element("option", { value: name }, name)));
    byId("type").closest("label").hidden = types.length < 2;
    const any = (test) => questions.some((question) => question.answers.some(test));
    const tests = { right: (a) => a.correct === true, wrong: (a) => a.correct === false, failed: (a) => a.status === "failed" };
    Object.entries(tests).forEach(([name, test]) => {
      byId(name).append(element("option", { value: "*" }, "any system"), ...data.systems.map((system) => element("option", { value: system.name }, system.name)));
      byId(name).closest("label").hidden = !any(test);
    });
    byId("disagree").closest("label").hidden = data.systems.length < 2;
    document.querySelector(".picker").hidden = data.systems.length < 2;
    byId("picked").append(...data.systems.map((system, number) => {
      const box = element("input", { type: "checkbox", value: String(number) });
      return element("label", {}, box, swatch(system), element("bdi", {}, system.name));
    }));
  }

  function pick(numbers) {
    state.picked = new Set(numbers);
    state.q = here ? here.dataset.key : "";
    showControls();
    update({ keep: true });
    if (state.q) openAt(state.q);
  }

  function listen() {
    let waiting = 0;
    const change = (name, value) => { state[name] = value; state.q = ""; update(); };
    byId("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change("search", event.target.value), 120);
    });
    ["type", "right", "wrong", "failed"].forEach((name) => byId(name).addEventListener("change", (event) => change(name, event.target.value)));
    byId("disagree").addEventListener("change", (event) => change("disagree", event.target.checked));
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => {
      const picked = state.picked;
      state = Object.assign(emptyState(), { picked });
      setTimeout(() => { showControls(); update(); }, 0);
    });
    byId("picked").addEventListener("change", () => pick([...document.querySelectorAll("#picked input:checked")].map((box) => Number(box.value))));
    byId("pick-all").addEventListener("click", () => pick(data.systems.keys()));
    byId("pick-first").addEventListener("click", () => pick(data.picked));
    document.querySelectorAll("[data-turn]").forEach((button) => button.addEventListener("click", () => {
      if (turn(Number(button.dataset.turn))) byId("count").scrollIntoView({ block: "center", behavior: "instant" });
    }));
    list.addEventListener("click", (event) => {
      const button = event.target.closest(".link");
      if (button) copyFrom(button, `${location.href.split("#")[0]}#${address(button.closest(".question").dataset.key)}`);
    });
    document.addEventListener("keydown", onKey);
    window.addEventListener("hashchange", arrive);
  }

  function arrive() {
    if (!recall()) return;
    if (state.q) return openAt(state.q);
    update({ keep: true });
    byId("questions").scrollIntoView();
  }

  fill();
  showControls();
  listen();
  if (location.hash.includes("=")) arrive();
  else update();
}

if (document.getElementById("data")) startQuestions(JSON.parse(document.getElementById("data").textContent));
