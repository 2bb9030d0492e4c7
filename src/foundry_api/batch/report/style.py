"""How the page looks, by day and by night, on a screen and on paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ground: #f5f6f8; --ink: #1a1d23; --quiet: #636b78; --edge: #e0e3e8;
  --accent: #2f6fdb; --second: #0d8a72; --bad: #c4362b; --good: #1f7a3d; --warn: #96640a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #1a1d23; --ground: #111318; --ink: #e6e8ec; --quiet: #969fae; --edge: #2e333d;
    --accent: #74a5f7; --second: #45c9ab; --bad: #f2857c; --good: #6fce8c; --warn: #e0ae55;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 12px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; margin-bottom: 20px; }
.when { color: var(--quiet); flex-basis: 100%; }
.state {
  font-size: 13px; font-weight: 600; padding: 2px 10px; border-radius: 99px;
  border: 1px solid currentColor;
}
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; }
.tile, .card {
  background: var(--paper); border: 1px solid var(--edge); border-radius: 10px; padding: 14px 16px;
}
.tile .name { color: var(--quiet); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile .note { color: var(--quiet); font-size: 13px; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 12px; margin-top: 12px;
}
.card { min-width: 0; }
.wide { grid-column: 1 / -1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--quiet); font-weight: 500; }
th, td { padding: 6px 16px 6px 0; border-bottom: 1px solid var(--edge); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
.count { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tbody th { white-space: nowrap; }
.facts th { width: 1%; } .facts td { overflow-wrap: anywhere; }
.empty { color: var(--quiet); margin: 0; } .plot + p { font-size: 14px; margin-top: 8px; }
.plot { display: block; width: 100%; height: auto; }
.plot text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.level { text-anchor: end; } .axis { text-anchor: middle; }
.grid { stroke: var(--edge); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.area { fill: var(--accent); opacity: .13; }
.bar { fill: var(--accent); opacity: .85; } .bar:hover { opacity: 1; }
.second .line { stroke: var(--second); } .second .area, .second .bar { fill: var(--second); }
.mark { stroke: var(--quiet); stroke-dasharray: 3 3; }
.plot .mark-label { fill: var(--ink); }
.hover { fill: transparent; } .hover:hover { fill: var(--ink); opacity: .08; }
footer { color: var(--quiet); font-size: 13px; margin-top: 24px; }
@media print { body { background: none; } .tile, .card { break-inside: avoid; } }
"""
