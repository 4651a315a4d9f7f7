"""The style sheet of the report: light and dark, from a phone to a wide screen, without anything from elsewhere.

Arms and lines differ in dash and weight as well as in colour. A chart is scaled with its lettering, so a lonely one
keeps the place of half a pair (`auto-fill`), and none grows much beyond its own size.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --soft: #5b6168; --rule: #e3e5e8; --faint: #eef0f2;
  --blue: #2367b5; --band: #2367b529; --red: #bf2f2f; --green: #1b7f4b; --grey: #6b7280; --amber: #96600a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1c1f24; --ink: #e8eaed; --soft: #a3aab3; --rule: #343941; --faint: #272b31;
    --blue: #76aef2; --band: #76aef230; --red: #f07f78; --green: #5fc48d; --grey: #9aa2ad; --amber: #e0a94f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 4px 0 12px; }
h2 { font-size: 1.2rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 20px 0 4px; }
p { margin: 4px 0; max-width: 76ch; }
.kicker, .note, figcaption, dt { color: var(--soft); }
.kicker, .note, figcaption { font-size: .875rem; }
.good { color: var(--green); } .bad { color: var(--red); } .open { color: var(--amber); }
ul.reasons { margin: 0 0 12px; padding-left: 20px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
section { padding: 16px; margin-top: 16px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 8px 20px; margin: 12px 0 0; }
dt { font-size: .8rem; } dd { margin: 0; font-size: .95rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 12px 28px; }
figure { margin: 8px 0 0; min-width: 0; max-width: 600px; }
figure > b { display: block; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .8rem; margin: 2px 0; padding: 0; }
.legend { list-style: none; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { width: 26px; height: 12px; flex: none; }
path { fill: none; }
.grid { stroke: var(--faint); } .axis { stroke: var(--grey); }
.tick, .unit, .boundary-text { fill: var(--soft); font-size: 11.5px; }
.boundary { stroke: var(--grey); stroke-dasharray: 1 3; }
.decision { stroke: var(--ink); stroke-width: .8; }
.badge { fill: var(--ink); } .number { fill: var(--card); font-size: 11px; font-weight: 600; }
.interval { fill: var(--band); }
.effect, .canary { stroke: var(--blue); stroke-width: 2; }
.stable { stroke: var(--grey); stroke-width: 2; stroke-dasharray: 7 3; }
.harm { stroke: var(--red); stroke-width: 1.8; stroke-dasharray: 8 3 2 3; }
.safe { stroke: var(--green); stroke-width: 1.8; stroke-dasharray: 4 3; }
.harm-odds { stroke: var(--red); stroke-width: 2; } .safe-odds { stroke: var(--green); stroke-width: 2; }
.ratio-odds { stroke: var(--blue); stroke-width: 2; }
.zero { stroke: var(--grey); }
.threshold { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 2 3; }
details { margin-top: 12px; font-size: .85rem; } summary { cursor: pointer; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 8px; }
th, td { padding: 3px 12px 3px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { color: var(--soft); font-weight: 500; }
.decisions { width: 100%; font-size: .9rem; }
.decisions th, .decisions td { text-align: left; vertical-align: top; }
.decisions td:last-child { white-space: normal; min-width: 220px; }
@media (max-width: 700px) {
  section { padding: 12px; }
  dl { grid-template-columns: 1fr 1fr; }
  .tick, .unit, .boundary-text { font-size: 15px; } .number { font-size: 12px; }
  .decisions, .decisions tbody, .decisions tr { display: block; }
  .decisions tr { border-bottom: 1px solid var(--faint); padding: 6px 0; }
  .decisions tr:first-child { display: none; }
  .decisions td { display: inline; border: 0; padding-right: 6px; white-space: normal; }
  .decisions td:first-child, .decisions td:nth-child(3) { font-weight: 600; }
  .decisions td:last-child { display: block; }
}
""".strip()
