// The body of gr.HTML's js_on_load: Gradio provides `element`, `props`, `trigger` and `watch`.
// Python made the figure (charts/); this file draws it with Plotly, which it loads when there is
// something to draw.
const PLOTLY = '__PLOTLY__';
const SAVED = { width: 1200, height: 675 }; // a slide's proportions
// An image cannot use the page's own font, and is laid out with the one that it will show.
const SAVED_FONT = { family: 'Arial, Helvetica, sans-serif', size: 16 };
const TICK = 36; // pixels that a tick's text takes
const $ = (selector) => element.querySelector(selector);
const [plot, position, keys, caption] = ['.plot', '.position', '.keys', '.caption'].map($);
const chip = new Text('');
position.firstChild.append(chip);

let figure = null;
let axis = null;
let drawn = false; // the first drawing is done: there are axes to place things on
let pointed = null; // uid of the line under the pointer
let timer = 0;
const hidden = new Set(); // uids of what is switched off
const seen = new Map(); // uid -> whether it was off by itself when it was drawn last

// One script for the whole page, from this server: never from another one.
function loadPlotly() {
  window.lwqPlotly ??= new Promise((done, failed) => {
    const script = document.createElement('script');
    const { root = '', api_prefix = '/gradio_api' } = window.gradio_config ?? {};
    script.src = `${root}${api_prefix}/file=${encodeURI(PLOTLY)}`;
    script.onload = () => done(window.Plotly);
    script.onerror = () => {
      window.lwqPlotly = null;
      failed(new Error('The chart could not be loaded from the server. Reload the page.'));
    };
    document.head.append(script);
  });
  return window.lwqPlotly;
}

// ---- from the figure to the page

function traces() {
  return figure.data.map((trace) => {
    const { [axis]: x, of = trace.uid } = trace.meta;
    return { ...trace, x, visible: !hidden.has(of) };
  });
}

// On a narrow page every other tick goes, and of those after the break all long ones but the last.
function thinned(xaxis) {
  const { tickvals = [], ticktext = [] } = xaxis;
  const end = ticktext.indexOf('…');
  if (plot.clientWidth > tickvals.length * TICK + 90) return xaxis;
  const short = (i) => ticktext[i].length < 3 || i === ticktext.length - 1;
  const stays = (_, i) => (i > end ? short(i) : i === end || (end - i) % 2);
  return { ...xaxis, tickvals: tickvals.filter(stays), ticktext: ticktext.filter(stays) };
}

// On a narrow page what a title has in brackets is a line of its own.
function broken(xaxis) {
  if (plot.clientWidth > 420) return xaxis;
  const text = xaxis.title.text.replace(' (', '<br>(');
  return { ...xaxis, title: { ...xaxis.title, text } };
}

// What the user zoomed into stays through updates: until the axis or the measure is another one.
function layout() {
  const { annotations, shapes, xaxis } = figure.axes[axis];
  return {
    ...structuredClone({ ...figure.layout, annotations, shapes, xaxis: broken(thinned(xaxis)) }),
    width: plot.clientWidth,
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    uirevision: `${figure.name}/${axis}`,
  };
}

async function draw() {
  if (!figure || !plot.clientWidth) return;
  const Plotly = await loadPlotly().catch((error) => {
    caption.textContent = error.message;
  });
  if (!Plotly) return;
  const config = { displayModeBar: false, scrollZoom: false };
  await Plotly.react(plot, structuredClone(traces()), layout(), config);
  if (!drawn) listen();
  drawn = true;
  showBands();
  placePosition();
}

function drawSoon() {
  timer ||= requestAnimationFrame(() => {
    timer = 0;
    draw();
  });
}

function update() {
  if (!props.figure) return;
  const before = figure;
  figure = JSON.parse(props.figure);
  if (before?.axis !== figure.axis || !(axis in figure.axes)) axis = figure.axis;
  $('.axes').classList.toggle('without', !('size' in figure.axes));
  plot.setAttribute('aria-label', `${figure.title}. The table below says the same in figures.`);
  caption.textContent = figure.caption;
  hideWhatIsOff();
  showAxis();
  makeKeys();
  drawSoon();
}

// What gets off by itself is hidden, and shown when it is no longer off. In between the user decides.
function hideWhatIsOff() {
  for (const { uid, meta } of figure.data) {
    if (meta.off && !seen.get(uid)) hidden.add(uid);
    if (!meta.off && seen.get(uid)) hidden.delete(uid);
    seen.set(uid, meta.off);
  }
}

function showAxis() {
  for (const button of $('.axes').children)
    button.setAttribute('aria-pressed', button.dataset.axis === axis);
}

// A band that is not always shown is shown while its line is pointed at. By style, since drawing
// anew would take the hover box away.
function showBands() {
  for (const { uid, meta } of figure.data) {
    if (!meta.of) continue;
    const band = plot.querySelector(`.trace${CSS.escape(uid)}`);
    if (band) band.style.visibility = meta.shown || meta.of === pointed ? '' : 'hidden';
  }
}

function point(uid) {
  if (pointed === uid) return;
  pointed = uid;
  showBands();
}

function listen() {
  plot.on('plotly_hover', ({ points: [{ data, customdata }] }) => {
    point(data.uid);
    plot.classList.toggle('clickable', !!customdata);
  });
  plot.on('plotly_unhover', () => {
    point(null);
    plot.classList.remove('clickable');
  });
  plot.on('plotly_click', ({ points }) => {
    const { customdata: split, data, pointNumber } = points[0];
    if (!split) return;
    // a new object: the same split can be chosen again
    props.value = { split: [...split], quantizer: data.meta.quantizers[pointNumber] };
    trigger('select');
  });
  plot.on('plotly_relayout', placePosition);
}

// ---- the legend: buttons, so that the keyboard reaches them

const SYMBOLS = {
  circle: 'M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z',
  square: 'M-3.6,-3.6H3.6V3.6H-3.6Z',
  diamond: 'M0,-5L5,0L0,5L-5,0Z',
  cross: 'M-4.5,-1.6H-1.6V-4.5H1.6V-1.6H4.5V1.6H1.6V4.5H-1.6V1.6H-4.5Z',
  x: 'M0,-1.9L2.8,-4.7L4.7,-2.8L1.9,0L4.7,2.8L2.8,4.7L0,1.9L-2.8,4.7L-4.7,2.8L-1.9,0L-4.7,-2.8L-2.8,-4.7Z',
  'triangle-up': 'M0,-4.6L4.4,3.4H-4.4Z',
  'triangle-down': 'M0,4.6L4.4,-3.4H-4.4Z',
  'triangle-left': 'M-4.6,0L3.4,-4.4V4.4Z',
  'triangle-right': 'M4.6,0L-3.4,-4.4V4.4Z',
  hexagon: 'M2.3,-4H-2.3L-4.6,0L-2.3,4H2.3L4.6,0Z',
  pentagon: 'M0,-4.8L4.6,-1.5L2.8,3.9H-2.8L-4.6,-1.5Z',
  star: 'M0,-5.4L1.3,-1.8H5.1L2.1,0.6L3.2,4.3L0,2.1L-3.2,4.3L-2.1,0.6L-5.1,-1.8H-1.3Z',
};
const DASHES = {
  solid: '', dash: '6 3', dot: '2 3', dashdot: '6 2 2 2', longdash: '10 3', longdashdot: '10 2 2 2',
};

function makeKeys() {
  keys.replaceChildren(
    ...figure.keys.map((uid) => {
      const trace = figure.data.find((one) => one.uid === uid);
      const { color, symbol } = trace.marker;
      const first = Array.isArray(symbol) ? symbol[0].replace('-open', '') : symbol;
      const shape = first.replace('-open', '');
      const open = first.endsWith('-open');
      const line = trace.line
        ? `<line x1="0" x2="30" y1="7" y2="7" stroke="${color}" stroke-width="${trace.line.width}"
             stroke-dasharray="${DASHES[trace.line.dash] ?? trace.line.dash.replaceAll('px', '')}"/>`
        : '';
      const key = document.createElement('button');
      key.type = 'button';
      key.dataset.uid = trace.uid;
      key.setAttribute('aria-pressed', !hidden.has(trace.uid));
      key.innerHTML = `<svg width="30" height="14" aria-hidden="true">${line}<path d="${SYMBOLS[shape]}"
        transform="translate(15 7)" fill="${open ? 'none' : color}" stroke="${color}"/></svg>`;
      key.append(trace.name);
      return key;
    }),
  );
}

const keyOf = (event) => event.target.closest('[data-uid]');
keys.addEventListener('click', (event) => {
  const key = keyOf(event);
  if (!key) return;
  const { uid } = key.dataset;
  if (!hidden.delete(uid)) hidden.add(uid);
  key.setAttribute('aria-pressed', !hidden.has(uid));
  drawSoon();
});
keys.addEventListener('pointerover', (event) => drawn && point(keyOf(event)?.dataset.uid ?? null));
keys.addEventListener('pointerleave', () => drawn && point(null));

$('.axes').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || !figure) return;
  axis = button.dataset.axis;
  showAxis();
  drawSoon();
});

// ---- where the slider is: heatmap.js tells, at every step of a drag, so nothing is drawn anew here

function placePosition() {
  const at = window.lwqBudget;
  const value = { bits: at?.bits, size: at?.bytes / figure?.axes[axis].unit }[axis];
  const { xaxis, _size: size } = plot._fullLayout ?? {};
  const x = drawn && value !== undefined ? xaxis.l2p(value) : NaN;
  const shown = x >= -1 && x <= xaxis?._length + 1 && value <= figure.axes[axis].reach;
  if (position.hidden === shown) position.hidden = !shown;
  if (!shown) return;
  position.style.transform = `translateX(${size.l + x}px)`;
  const text = axis === 'bits' ? `${value.toFixed(2)} bits` : at.size;
  if (chip.data !== text) chip.data = text;
}
addEventListener('lwq-budget', placePosition);

// ---- files

function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// On the page's own background, with a title and a legend: it has to stand alone.
async function saveImage(format) {
  const Plotly = await loadPlotly();
  const { backgroundColor: ground, color } = getComputedStyle($('.lwq-chart'));
  const told = traces().map((trace) => ({
    ...trace,
    visible: trace.visible && trace.meta.shown !== false,
    legendrank: figure.keys.indexOf(trace.uid),
  }));
  const { xaxis, shapes, annotations } = structuredClone(figure.axes[axis]);
  const { yaxis, ...rest } = structuredClone(figure.layout);
  for (const [side, shown] of [[xaxis, plot.layout.xaxis], [yaxis, plot.layout.yaxis]]) {
    side.range = shown.range; // as zoomed
    side.title.font = { size: SAVED_FONT.size };
  }
  for (const note of annotations) note.font = { size: 14, color };
  const dressed = {
    ...rest,
    ...SAVED,
    xaxis,
    yaxis,
    shapes,
    annotations,
    title: { text: figure.title, x: 0.5, font: { size: 22 }, subtitle: { text: figure.subtitle } },
    font: { ...SAVED_FONT, color },
    margin: { l: 96, r: 24, t: 64, b: 140 },
    paper_bgcolor: ground,
    plot_bgcolor: ground,
    showlegend: true,
    legend: { orientation: 'h', x: 0, y: -0.16, yanchor: 'top' },
  };
  await Plotly.downloadImage(
    { data: structuredClone(told), layout: dressed },
    { format, ...SAVED, scale: format === 'png' ? 2 : 1, filename: figure.name },
  );
}

$('.saves').addEventListener('click', (event) => {
  const kind = event.target.closest('button')?.dataset.save;
  if (!kind || !figure) return;
  if (kind === 'csv') save(new Blob([figure.csv], { type: 'text/csv' }), `${figure.name}.csv`);
  else saveImage(kind);
});

new ResizeObserver(drawSoon).observe(plot);
watch('figure', update);
update();
