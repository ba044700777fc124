// The body of gr.HTML's js_on_load: Gradio provides `element`, `props`, `server`, `trigger` and
// `watch`. What is typed stays as it is typed; only picking an offer changes it.
const ASK_MS = 300;
const $ = (selector) => element.querySelector(selector);
const [input, popup, list, note] = ['input', '.offers', '[role=listbox]', '.offers p'].map($);
const make = (tag, className, ...content) => {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...content);
  return node;
};

let offers = JSON.parse(props.offers); // {asked, groups: [{title, models}], note, kept}
let typed = ''; // since the field was entered: '' offers everything, whatever stands in the field
let active = -1;
let timer = 0;

const options = () => [...list.querySelectorAll('[role=option]')];
const isOpen = () => popup.matches(':popover-open');

// What the server found for these very words, or what they leave of what it found last.
function matching(models) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  if (typed === offers.asked) return models;
  return models.filter(({ id }) => words.every((word) => id.toLowerCase().includes(word)));
}

function draw() {
  const kept = options()[active]?.dataset.id;
  let count = 0;
  list.replaceChildren(
    ...offers.groups.flatMap(({ title, models }) => {
      const rows = matching(models).map(({ id, size, remark }) => {
        const name = make('span', 'name', id);
        if (remark) name.append(make('small', '', remark));
        const row = make('div', '', name, make('span', 'size', size));
        row.setAttribute('role', 'option');
        row.id = `model-offer-${count++}`;
        row.dataset.id = id;
        return row;
      });
      if (!rows.length) return [];
      const group = make('div', '', make('div', 'title', title), ...rows);
      group.setAttribute('role', 'group');
      group.setAttribute('aria-label', title);
      return [group];
    }),
  );
  note.textContent = typed === offers.asked ? offers.note : '';
  mark(options().findIndex((row) => row.dataset.id === kept));
  if (count || note.textContent) open();
  else close();
}

function mark(index) {
  active = index;
  options().forEach((row, i) => row.setAttribute('aria-selected', i === index));
  const row = options()[index];
  if (row) input.setAttribute('aria-activedescendant', row.id);
  else input.removeAttribute('aria-activedescendant');
  row?.scrollIntoView({ block: 'nearest' });
}

function open() {
  if (document.activeElement !== input) return;
  if (!isOpen()) {
    popup.showPopover();
    input.setAttribute('aria-expanded', 'true');
    addEventListener('scroll', place, { capture: true, passive: true });
  }
  place();
}

function close() {
  if (!isOpen()) return;
  popup.hidePopover();
  mark(-1);
  input.setAttribute('aria-expanded', 'false');
  removeEventListener('scroll', place, { capture: true });
}

// In the top layer, so that nothing clips it.
function place() {
  const box = input.getBoundingClientRect();
  const wide = Math.min(Math.max(box.width, 400), document.documentElement.clientWidth - 16);
  popup.style.width = `${wide}px`;
  popup.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - wide - 8))}px`;
  popup.style.top = `${box.bottom + 4}px`;
  popup.style.maxHeight = `${Math.max(120, Math.min(420, innerHeight - box.bottom - 16))}px`;
}

// What appears above the field, such as an error, moves it.
new ResizeObserver(() => isOpen() && place()).observe(document.body);

// Answers come late, and out of order: one that nobody waits for any more is dropped.
async function ask() {
  const text = typed;
  const found = await server.complete(text).catch(() => null);
  if (!found || text !== typed || document.activeElement !== input) return;
  offers = JSON.parse(found);
  if (isOpen() || text) draw();
}

function pick(row) {
  props.value = input.value = row.dataset.id;
  typed = '';
  close();
}

input.value = props.value ?? '';
input.addEventListener('focus', () => {
  typed = offers.kept && offers.asked === input.value.trim() ? offers.asked : '';
  draw();
  if (!typed) ask();
});
input.addEventListener('click', () => {
  if (!isOpen()) draw();
});
input.addEventListener('blur', () => {
  clearTimeout(timer);
  close();
});
input.addEventListener('input', () => {
  props.value = input.value;
  typed = input.value.trim();
  active = -1;
  draw();
  clearTimeout(timer);
  timer = setTimeout(ask, ASK_MS);
});
input.addEventListener('keydown', (event) => {
  const rows = options();
  if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
    event.preventDefault();
    if (!isOpen()) return draw();
    const by = event.key === 'ArrowDown' ? 1 : -1;
    mark(Math.max(-1, Math.min(rows.length - 1, active + by)));
  } else if (event.key === 'Escape') {
    clearTimeout(timer);
    close();
  } else if (event.key === 'Enter' && !event.isComposing) {
    event.preventDefault();
    clearTimeout(timer);
    if (isOpen() && rows[active]) return pick(rows[active]);
    close();
    trigger('submit');
  }
});
list.addEventListener('pointerdown', (event) => event.preventDefault()); // the field keeps the focus
list.addEventListener('click', (event) => {
  const row = event.target.closest('[role=option]');
  if (row) pick(row);
});
// What stands in the field means several models, as Python found out.
watch('offers', () => {
  offers = JSON.parse(props.offers);
  if (offers.asked !== input.value.trim()) return;
  input.focus();
  typed = offers.asked;
  draw();
});
watch('value', () => {
  input.value = props.value ?? '';
});
