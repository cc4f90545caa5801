"""The style sheet of the HTML report: system fonts, light and dark, screen and paper, from 400 pixels up."""

CSS = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #22262b; --muted: #6a737d; --rule: #d5d9de;
  --accent: #1f6f8b; --faint: #9cc3d1; --second: #c4570f; --third: #5b2a86; --fourth: #3a9a78; --soft: #f1f4f5;
  --loud: #8a4b00; --loud-soft: #fdf3e3; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191c; --ink: #e3e6e8; --muted: #9aa4ad; --rule: #343a40;
  --accent: #6fb6cf; --faint: #3f6673; --second: #f0985a; --third: #c3a3ec; --fourth: #7fd1b2; --soft: #1e2226;
  --loud: #f0b866; --loud-soft: #2b2418; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
h4 { font-size: .95rem; margin: 0 0 .4rem; font-weight: 600; }
p, li { max-width: 46rem; overflow-wrap: break-word; }
p { margin: .5rem 0; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
li { margin: .35rem 0; }
code { white-space: nowrap; font-size: .92em; }
.lead, .note { color: var(--muted); }
.note { font-size: .875rem; margin-top: -1.4rem; }
.said { font-size: 1.05rem; }
h2 + .said { font-size: 1.2rem; line-height: 1.45; }
details { border-bottom: 1px solid var(--rule); padding: .1rem 0; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 500; overflow-wrap: anywhere; }
details > .scroll:first-of-type { margin-top: .2rem; }
.loud { background: var(--loud-soft); border-left: 4px solid var(--loud); padding: .7rem 1rem; margin: 1.2rem 0;
  max-width: 48rem; }
.loud strong { color: var(--loud); }
.scroll { overflow-x: auto; margin: .8rem 0 2rem; padding-bottom: .3rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
.n { text-align: right; }
.long { white-space: normal; min-width: 18rem; overflow-wrap: anywhere; }
.n + :not(.n) { padding-left: .6rem; }
.span { color: var(--muted); display: block; font-size: .91em; white-space: nowrap; }
.marks { display: block; }
.mark { display: inline-block; margin-right: .35rem; padding: 0 .45rem; border-radius: .7rem; font-size: .86em;
  border: 1px solid var(--rule); color: var(--muted); }
.mark.picked { border-color: var(--accent); color: var(--accent); }
tr.picked td, tr.picked th { background: var(--soft); }
tbody th { font-weight: 500; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.6rem 3rem;
  align-items: start; }
figure { margin: .6rem 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 36rem; height: auto; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media screen and (min-width: 62rem) { figure:only-child { grid-column: 1 / -1; display: grid;
  column-gap: 3rem; grid-template-columns: minmax(0, 34.25rem) minmax(0, 1fr); }
  figure:only-child h4 { grid-column: 1 / -1; } }
figcaption { color: var(--muted); font-size: .84rem; line-height: 1.45; max-width: 36rem; margin-top: .4rem;
  overflow-wrap: anywhere; }
dl { font-size: .875rem; display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { main { padding: 1.5rem 1rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; } tbody th { white-space: normal; min-width: 8.5rem; overflow-wrap: anywhere; }
  .long { min-width: 13rem; } }
@media print { :root { --paper: #fff; --ink: #000; --muted: #444; --rule: #bbb; --accent: #1f6f8b; --faint: #9cc3d1;
  --second: #c4570f; --third: #5b2a86; --fourth: #3a9a78; --soft: #f3f3f3; --loud: #8a4b00; --loud-soft: #fff; }
  main { max-width: none; padding: 0; } body { font-size: 10pt; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } th, td { white-space: normal; padding-right: .4rem; }
  .long { min-width: 0; }
  figure, tr, .loud { break-inside: avoid; } h2, h3 { break-after: avoid; }
  figure svg { max-width: 12cm; } .figures { display: block; }
  details::details-content { content-visibility: visible; display: block; height: auto; opacity: 1; }
  dl { font-size: 8.5pt; } h2 { margin-top: 1.6rem; } .mark { padding: 0; border: 0; } }
"""
