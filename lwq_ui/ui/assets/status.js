// The body of gr.HTML's js_on_load. Every step of a progress bar replaces the status line: a screen
// reader gets the text alone, once, from a line that stays. Errors are alerts by themselves.
const live = document.createElement('p');
live.className = 'lwq-announcer';
live.setAttribute('role', 'status');
document.body.append(live);
new MutationObserver(() => {
  const told = element.querySelector('.idle span, .running span')?.innerText ?? '';
  if (live.textContent !== told) live.textContent = told;
}).observe(element, { childList: true, characterData: true, subtree: true });
