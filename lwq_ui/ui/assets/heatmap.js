// The body of gr.HTML's js_on_load: Gradio provides `element`, `props`, `trigger` and `watch`.
// Python computed every split and every text in `props.table`; this file only looks them up.
const POST_MS = 100;
const TITLES = ['high_name', 'low_name', 'high_title', 'low_title', 'saving_title', 'of', 'other', 'expected_title', 'origin'];
const $ = (selector) => element.querySelector(selector);
const make = (tag, className, ...content) => {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...content);
  return node;
};
const [range, field, unit, message, bars, tip, clear, card, stack] =
  ['.range', '.field', '.unit', '.message', '.bars', '.tip', '.clear', '.card', '.stack'].map($);
const texts = {}; // writing .data of a text node is the cheapest change of the page
for (const node of element.querySelectorAll('[data-text]')) {
  texts[node.dataset.text] = new Text('–');
  node.replaceChildren(texts[node.dataset.text]);
}

let table = null;
let choice = null;
let cells = []; // cells[bar][layer]
let raised = 0; // how many of table.raised are at the high level on the page
let sorted = false;
let timer = 0;
let posted = -Infinity;
let anchor = null; // the cell that the tooltip belongs to

// Index of the last entry <= x of an ascending array, or -1.
const find = (array, x) => {
  let from = 0;
  let to = array.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (array[middle] <= x) from = middle + 1;
    else to = middle;
  }
  return from - 1;
};
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

// ---- from the table to the page

// A cell holds a high and a low look, one of them hidden: a change of level is a repaint of that
// cell without any layout.
function paint(bar, layer, bits) {
  const cell = cells[bar][layer];
  const row = table.rows[bar];
  const pinned = layer in table.pins;
  const kind = bits === table.high ? 'high' : bits === table.low ? 'low' : 'other';
  cell.className = `cell ${kind}${pinned ? ' pinned' : ''}`;
  cell.dataset.bits = bits;
  const look = cell.lastChild.children[kind === 'low' ? 1 : 0].firstChild;
  if (look.data !== table.marks[bits]) look.data = table.marks[bits];
  cell.setAttribute(
    'aria-label',
    `Layer ${layer}: ${row.about[layer]}, ${table.names[bits]}${pinned ? ', pinned' : ''}`,
  );
}

function setLevel(layer, bits) {
  for (let bar = 0; bar < cells.length; bar++) paint(bar, layer, bits);
}

// The hot path of a drag: touches only the cells that change.
function draw() {
  const position = Math.max(0, find(table.bytes, choice.budget));
  if (raised !== position) {
    while (raised < position) setLevel(table.raised[raised++], table.high);
    while (raised > position) setLevel(table.raised[--raised], table.low);
    write();
  }
  say(choice.budget < table.bytes[0] ? table.too_small : '');
  showBudget();
}

function write() {
  for (const [name, text] of Object.entries(table.texts[raised])) {
    if (texts[name].data !== text) texts[name].data = text;
  }
  if (table.card) fill();
  tellPosition();
}

// The parts share the line as they share the bytes; a card that is too small ends within it.
function fill() {
  const { size, spare } = table.card;
  const free = spare[raised];
  stack.firstChild.style.flexGrow = table.bytes[raised];
  stack.lastChild.style.flexGrow = Math.max(0, free);
  stack.style.setProperty('--edge', size / Math.max(size, size - free));
  card.classList.toggle('over', free < 0);
}

function makeCard() {
  card.hidden = !table.card;
  for (const part of card.querySelectorAll('[data-part]')) part.remove();
  if (!table.card) return;
  $('.card-title').textContent = table.card.title;
  $('.card-use').textContent = table.card.use;
  for (const { name, title, bytes, text } of table.card.beside) {
    const part = make('i', `part ${name}`);
    part.style.flexGrow = bytes;
    const told = make('div', name, make('dt', '', title), make('dd', '', text));
    part.dataset.part = told.dataset.part = name;
    stack.lastChild.before(part);
    $('.parts').lastElementChild.before(told);
  }
}

// For the chart, which may come later: it asks the window then.
function tellPosition() {
  window.lwqBudget = {
    bits: table.levels[raised] / table.base.length,
    bytes: table.bytes[raised],
    size: table.texts[raised].size,
  };
  dispatchEvent(new CustomEvent('lwq-budget'));
}

const inUnit = (bytes) => (bytes / table.unit.bytes).toFixed(table.unit.digits);

// The budget is the user's own number, so it is the only one written here and not by Python.
function showBudget() {
  const text = table.texts[raised];
  const size = inUnit(choice.budget);
  field.value = unit.value === 'size' ? size : text.average;
  range.setAttribute(
    'aria-valuetext',
    `${size} ${table.unit.name}, average ${text.average} bits, ${text.high} layers at ${table.names[table.high]}` +
      (table.card ? `, ${text.fits}` : ''),
  );
}

function say(text, wrongField = false) {
  if (message.textContent !== text) message.textContent = text;
  field.setAttribute('aria-invalid', wrongField);
}

function build() {
  if (!props.table) return;
  const held = holder();
  const before = table;
  table = JSON.parse(props.table);
  choice ??= props.value;
  const names = (t) => t && `${t.rows.map((row) => row.name)}/${t.rows[0].shade.length}`;
  const fresh = names(before) !== names(table);
  if (fresh) makeBars();
  table.rows.forEach((row, bar) => {
    const node = bars.children[bar];
    node.classList.toggle('decides', row.decides);
    node.querySelector('.name').textContent = row.title;
    node.querySelector('.meaning').textContent = row.meaning;
    row.shade.forEach((shade, layer) => cells[bar][layer].style.setProperty('--shade', shade));
  });
  table.base.forEach((bits, layer) => setLevel(layer, bits));
  raised = 0;

  range.min = table.min;
  range.max = table.max;
  range.value = choice.budget;
  $('.ticks').replaceChildren(
    ...table.ticks.map((tick) => {
      const node = make('span', '', make('b', '', tick.bits), make('br', ''), tick.size);
      node.style.left = `${(100 * (tick.at - table.min)) / (table.max - table.min)}%`;
      return node;
    }),
  );
  unit.options[0].textContent = table.unit.name;
  $('.by').textContent = table.split_by;
  clear.hidden = !Object.keys(table.pins).length;
  for (const name of TITLES) texts[name].data = table[name];
  makeCard();
  $('.totals').classList.toggle('expecting', !!table.expected_title);
  arrange();
  if (fresh) fit();
  write();
  draw();
  hold(held);
  if (anchor?.isConnected) showTip(anchor);
  else hideTip();
}

function makeBars() {
  cells = table.rows.map((row) =>
    row.shade.map((_, layer) => {
      const bits = make('span', 'bits', make('i', 'up', '–'), make('i', 'down', '–'));
      const cell = make('button', 'cell', make('span', 'heat', layer), bits);
      cell.type = 'button';
      cell.tabIndex = -1;
      cell.dataset.layer = layer;
      return cell;
    }),
  );
  bars.replaceChildren(
    ...table.rows.map((row) => {
      const grid = make('div', 'cells');
      grid.setAttribute('role', 'group');
      grid.setAttribute('aria-label', `${row.title}, one cell per layer`);
      const head = make(
        'div',
        'head',
        make('b', 'name'),
        make('span', 'mark', 'decides the split'),
        make('span', 'meaning'),
      );
      const bar = make('div', 'bar', head, grid);
      bar.dataset.scorer = row.name;
      return bar;
    }),
  );
}

// Cells are moved in the document, not with CSS `order`: the arrow keys follow what is seen.
function arrange() {
  table.rows.forEach((row, bar) => {
    const wanted = sorted ? row.order.map((layer) => cells[bar][layer]) : cells[bar];
    const grid = bars.children[bar].querySelector('.cells');
    if (wanted.some((cell, i) => grid.children[i] !== cell)) grid.replaceChildren(...wanted);
    if (!wanted.some((cell) => cell.tabIndex === 0)) wanted[0].tabIndex = 0;
  });
}

// Lines of equal length, with cells at least 22 px wide.
function fit() {
  const width = $('.cells')?.clientWidth;
  if (!width) return;
  const count = cells[0].length;
  const lines = Math.ceil(count / Math.max(1, Math.floor((width + 3) / 25)));
  bars.style.setProperty('--columns', Math.ceil(count / lines));
}

// ---- keyboard focus across a rebuild

function holder() {
  const cell = document.activeElement;
  if (!bars.contains(cell)) return null;
  return { cell, scorer: cell.closest('.bar').dataset.scorer, layer: cell.dataset.layer };
}

function hold(held) {
  if (!held || document.activeElement === held.cell) return;
  const grid = bars.querySelector(`[data-scorer="${held.scorer}"] .cells`) ?? $('.cells');
  focusCell(grid.querySelector(`[data-layer="${held.layer}"]`) ?? grid.lastChild);
}

function focusCell(cell) {
  for (const other of cell.parentNode.children) other.tabIndex = other === cell ? 0 : -1;
  cell.focus();
}

// ---- from the user to Python

// Assigning props.value costs a few ms of main thread: at most one post per POST_MS while the budget
// moves, and always one for where it ends.
function post() {
  clearTimeout(timer);
  timer = 0;
  posted = performance.now();
  props.value = choice; // always a new object: Gradio does not see a change inside the old one
}

function postMove() {
  post();
  trigger('move');
}

function setBudget(budget, settled) {
  choice = { ...choice, budget: Math.round(budget) };
  draw();
  const wait = settled ? posted + POST_MS - performance.now() : POST_MS;
  if (wait <= 0) postMove();
  else timer ||= setTimeout(postMove, wait);
  if (settled) trigger('settle');
}

function step(by) {
  const last = table.bytes.length - 1;
  const budget = table.bytes[clamp(find(table.bytes, choice.budget) + by, 0, last)];
  range.value = budget;
  setBudget(budget, true);
}

function repin(pins) {
  choice = { ...choice, pins };
  post();
  trigger('pin');
}

function readField() {
  const size = unit.value === 'size';
  const number = field.valueAsNumber;
  if (!(number >= 0)) return say('Type a number.', true);
  // What the page shows is rounded; typed back, it means the split it was shown for.
  const shown = (k) => Number(size ? inUnit(table.bytes[k]) : table.texts[k].average);
  let position = table.bytes.findLastIndex((_, k) => shown(k) === number);
  if (position < 0)
    position = size ? find(table.bytes, number * table.unit.bytes) : find(table.levels, number * table.base.length + 1e-9);
  if (position < 0) return say(size ? table.too_small : table.too_few_bits, true);
  const fits = table.bytes[position];
  const budget = size ? Math.min(Math.max(fits, number * table.unit.bytes), Math.max(fits, table.max)) : fits;
  range.value = budget;
  setBudget(budget, true);
}

range.addEventListener('input', () => setBudget(+range.value, false));
range.addEventListener('change', () => setBudget(+range.value, true));
range.addEventListener('keydown', (event) => {
  const by = {
    ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity,
  }[event.key];
  if (!by) return;
  event.preventDefault();
  step(by);
});
field.addEventListener('change', readField);
field.addEventListener('keydown', (event) => {
  const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  step(by);
});
unit.addEventListener('change', draw);

bars.addEventListener('click', (event) => {
  const cell = event.target.closest('.cell');
  if (!cell) return;
  // auto -> high -> low -> auto; a pin at any other level (from a loaded config) goes to auto
  const { [cell.dataset.layer]: level, ...pins } = choice.pins;
  if (level === undefined) pins[cell.dataset.layer] = table.high;
  else if (level === table.high) pins[cell.dataset.layer] = table.low;
  repin(pins);
});
clear.addEventListener('click', () => {
  range.focus(); // the button is about to go
  repin({});
});
$('.orders').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  sorted = !!button.dataset.sorted;
  for (const other of button.parentNode.children)
    other.setAttribute('aria-pressed', other === button);
  arrange();
});

// One tab stop per bar; arrows move inside it.
bars.addEventListener('keydown', (event) => {
  const cell = event.target.closest('.cell');
  if (!cell) return;
  if (event.key === 'Escape') return hideTip();
  const columns = +bars.style.getPropertyValue('--columns');
  const by = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity,
  }[event.key];
  if (!by) return;
  event.preventDefault();
  const line = [...cell.parentNode.children];
  focusCell(line[clamp(line.indexOf(cell) + by, 0, line.length - 1)]);
});

// ---- the tooltip: a popover, so nothing clips it and nothing moves for it

function showTip(cell) {
  anchor = cell;
  const row = table.rows[cells.findIndex((bar) => bar.includes(cell))];
  const layer = cell.dataset.layer;
  const pinned = layer in table.pins ? ', pinned' : '';
  tip.children[0].textContent = `Layer ${layer}`;
  tip.children[1].textContent = row.about[layer];
  tip.children[2].textContent = `${table.names[cell.dataset.bits]}${pinned}`;
  if (!tip.matches(':popover-open')) {
    tip.showPopover();
    addEventListener('scroll', placeTip, { capture: true, passive: true });
  }
  placeTip();
}

function placeTip() {
  const box = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = tip;
  const right = document.documentElement.clientWidth - width - 8;
  const above = box.top - height - 6;
  tip.style.left = `${clamp(box.left + box.width / 2 - width / 2, 8, Math.max(8, right))}px`;
  tip.style.top = `${above >= 8 ? above : box.bottom + 6}px`;
}

function hideTip() {
  anchor = null;
  if (!tip.matches(':popover-open')) return;
  tip.hidePopover();
  removeEventListener('scroll', placeTip, { capture: true });
}

bars.addEventListener('pointerover', (event) => {
  const cell = event.target.closest('.cell');
  if (cell) showTip(cell);
  else hideTip();
});
bars.addEventListener('pointerleave', hideTip);
bars.addEventListener('focusin', (event) => {
  if (event.target.matches('.cell:focus-visible')) showTip(event.target);
});
bars.addEventListener('focusout', hideTip);

new ResizeObserver(fit).observe(element);
// Fires for values that Python sent, not for our own posts.
watch('value', () => {
  clearTimeout(timer);
  timer = 0;
  choice = props.value;
  if (!table) return;
  range.value = choice.budget;
  draw();
});
watch('table', build);
build();
