"""Style and script of the HTML pages. Both stand inside each page, which therefore needs no network.

The pages read well without the script: it only sorts tables.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c2024; --soft: #5d666f; --line: #e3e5e8; --track: #eef0f2;
  --accent: #2b66b1; --accent-soft: #2b66b133;
  --localisation: #3b7dd8; --confusion: #8a5cd1; --duplicate: #1a9c93; --background: #d0533f; --missed: #c58a12;
  --right: #17935a; --wrong: #d0533f; --difficult: #8b949e;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --card: #171b20; --ink: #e8eaed; --soft: #9aa4ae; --line: #2a3037; --track: #22282f;
    --accent: #7db0f0; --accent-soft: #7db0f033;
    --localisation: #6aa5f0; --confusion: #b092ea; --duplicate: #47c2b8; --background: #f0806c; --missed: #e5b04a;
    --right: #3fc584; --wrong: #f0806c; --difficult: #8b949e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
       Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 5rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -.015em; margin: .2rem 0 .4rem; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 3.25rem 0 .35rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .6rem; }
p { margin: .3rem 0 1rem; max-width: 46rem; }
.eyebrow { text-transform: uppercase; letter-spacing: .09em; font-size: .74rem; font-weight: 600;
    color: var(--accent); }
.soft, .note { color: var(--soft); } .note { font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.25rem; }
.hero { display: grid; grid-template-columns: minmax(15rem, 1fr) minmax(0, 2fr); gap: 1rem; margin-top: 1.5rem; }
.hero > .card { min-width: 0; }
.big { font-size: clamp(3.2rem, 8vw, 4.6rem); font-weight: 680; letter-spacing: -.035em; line-height: 1.05;
       font-variant-numeric: tabular-nums; }
.big small { font-size: .36em; font-weight: 500; letter-spacing: 0; color: var(--soft); margin-left: .15em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .94rem; }
th, td { padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left;
    vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; } tbody tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; font-size: .82rem; color: var(--soft); vertical-align: bottom; }
thead .number { white-space: normal; }
tbody th { font-size: inherit; color: inherit; font-weight: 500; vertical-align: middle; }
.number { text-align: right; white-space: nowrap; }
.range { display: block; font-size: .78rem; color: var(--soft); }
.text { overflow-wrap: break-word; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
    text-align: inherit; }
th button::after { content: "\\2195"; opacity: .4; margin-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
th button:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px;
    border-radius: 3px; }
.bars { width: 42%; min-width: 7rem; }
.track { position: relative; height: .85rem; background: var(--track); border-radius: 4px; }
.track > i { position: absolute; inset: 0 auto 0 0; background: var(--accent); border-radius: 4px; min-width: 1px; }
.track > b { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--ink); opacity: .75; }
.track.dots { background: none; border-bottom: 1px solid var(--line); border-radius: 0; height: 1.3rem; }
.dots u, .dots s { position: absolute; top: 50%; }
.dots u { width: .7rem; height: .7rem; margin: -.35rem; border-radius: 50%; background: var(--accent); opacity: .75; }
.dots s { width: 2px; height: 1.2rem; margin: -.6rem -1px; background: var(--ink); }
.clear { font-weight: 650; } .clear .range { font-weight: 400; }
.stack { display: flex; height: 1.9rem; border-radius: 7px; overflow: hidden; background: var(--track); gap: 1px; }
.stack.thin { height: .85rem; border-radius: 4px; }
.stack > i { display: block; min-width: 0; }
.dot { display: inline-block; width: .72em; height: .72em; border-radius: 3px; margin-right: .5em; }
.localisation { background: var(--localisation); } .confusion { background: var(--confusion); }
.duplicate { background: var(--duplicate); } .background { background: var(--background); }
.missed { background: var(--missed); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 45%), 1fr)); gap: .75rem; }
.curves figure { margin: 0; padding: .6rem .7rem .5rem; }
figcaption { display: flex; justify-content: space-between; gap: .5rem; font-size: .86rem; }
figcaption > :first-child { overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; vector-effect: non-scaling-stroke; }
.curve { stroke: var(--accent); stroke-width: 1.8; fill: none; vector-effect: non-scaling-stroke;
         stroke-linejoin: round; }
.area { fill: var(--accent-soft); stroke: none; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.gallery figure { margin: 0; padding: .55rem; }
.gallery figcaption { padding: .5rem .25rem .1rem; flex-wrap: wrap; }
.frame { position: relative; overflow: hidden; border-radius: 7px; background: var(--track); }
.frame img { display: block; width: 100%; height: auto; }
.frame .absent { display: grid; place-items: center; color: var(--soft); font-size: .85rem; }
.frame svg { position: absolute; inset: 0; height: 100%; overflow: hidden; }
.frame rect { fill: transparent; stroke-width: 2; vector-effect: non-scaling-stroke; }
.frame rect:hover { fill: #ffffff40; }
.box-right { stroke: var(--right); } .box-wrong { stroke: var(--wrong); }
.box-missed { stroke: var(--missed); stroke-dasharray: 6 4; }
.box-difficult { stroke: var(--difficult); stroke-dasharray: 2 3; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .88rem; color: var(--soft); margin-bottom: .9rem; }
.ink-right { color: var(--right); } .ink-wrong { color: var(--wrong); } .ink-missed { color: var(--missed); }
.gallery .soft { white-space: nowrap; }
.swatch { display: inline-block; width: 1.1em; height: .8em; border: 2px solid; border-radius: 3px; margin-right: .45em;
          vertical-align: -.05em; }
.swatch.right { border-color: var(--right); } .swatch.wrong { border-color: var(--wrong); }
.swatch.missed { border: 2px dashed var(--missed); background: none; }
.swatch.difficult { border: 2px dotted var(--difficult); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr); gap: .3rem 1.5rem; margin: 0;
     font-size: .92rem; }
a { color: var(--accent); text-underline-offset: .15em; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; color: var(--soft); } pre { white-space: pre-wrap; overflow-wrap: anywhere;
    font-size: .82rem; }
@media (max-width: 46rem) {
  .hero { grid-template-columns: minmax(0, 1fr); }
  .wide { display: none; }
  th, td { padding-right: .5rem; }
  .card { padding: .9rem; } .bars { min-width: 4.5rem; } table { font-size: .88rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; }
  body { font-size: 10.5pt; background: #fff; } main { max-width: none; padding: 0; }
  .card, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  th button::after { content: none; }
  .track > i, .stack > i, .dot { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex;
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = (text) => text === "" ? -Infinity : Number(text);
    const compare = "numeric" in button.dataset
      ? (a, b) => number(value(a)) - number(value(b)) : (a, b) => value(a).localeCompare(value(b));
    const rows = [...body.rows].sort((a, b) => rising ? compare(a, b) : compare(b, a));
    body.append(...rows);
  });
}
"""
