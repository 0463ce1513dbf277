// Shows /v1/reports/campaigns, anew every few seconds. Texts are only ever set as text: nothing in them becomes markup.
"use strict";

const EVERY_MS = 5000;
const COUNTS = ["impressions", "clicks", "conversions"];
const door = document.getElementById("door");
const said = document.getElementById("said");
const main = document.getElementById("campaigns");

function element(name, text, parent, className) {
  const made = document.createElement(name);
  if (text !== "" && text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}

function money(micros, currency) {
  return new Intl.NumberFormat(undefined, { style: "currency", currency, maximumFractionDigits: 2 }).format(micros / 1e6);
}

function percent(share) {
  return new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 }).format(share);
}

function showBudget(budget, currency, parent) {
  const made = element("div", "", parent);
  const meter = element("meter", "", made);
  meter.max = budget.limit_micros;
  meter.value = budget.spent_micros;
  element("span", " " + money(budget.spent_micros, currency) + " of " + money(budget.limit_micros, currency)
    + (budget.day ? " on " + budget.day : ""), made);
}

function showNumbers(counts, row) {
  COUNTS.forEach((name) => element("td", counts ? counts[name].toLocaleString() : "–", row, "number"));
  const rate = counts && counts.impressions ? percent(counts.clicks / counts.impressions) : "–";
  element("td", rate, row, "number");
}

const WHY = {
  schedule: (line) => line.opens_ms ? "opens " + new Date(line.opens_ms).toLocaleString() : "its time is over",
  stock: (line) => "out of stock: " + line.detail,
  budget: (line) => "spent: the " + line.detail,
  paused: (line) => "the " + line.detail + " is paused",
  ended: (line) => "the " + line.detail + " has ended",
  not_published: (line) => "not published: " + line.detail,
};

function whyNot(line) {
  return WHY[line.state] ? WHY[line.state](line) : line.detail;
}

function showLine(line, campaign, table) {
  const row = element("tr", "", table);
  const first = element("td", "", row);
  element("strong", line.name || line.id, first);
  element("div", line.id + (line.placements.length ? " in " + line.placements.join(", ") : ""), first, "meta");
  const state = element("td", "", row);
  element("span", line.state.replace("_", " "), state, "state " + line.state);
  if (line.state !== "shown") element("div", whyNot(line), state, "meta");
  const budget = element("td", "", row);
  line.budgets.forEach((one) => showBudget(one, campaign.currency, budget));
  showNumbers(line.counts, row);
  element("td", line.counts ? money(line.counts.revenue_micros, campaign.currency) : "–", row, "number");
  line.creatives.forEach((creative) => showCreative(creative, line, campaign, table));
}

function showCreative(creative, line, campaign, table) {
  const row = element("tr", "", table, "creative");
  element("td", creative.name || creative.id, row);
  const status = creative.status === "published" ? "" : creative.status;
  element("td", status, row);
  element("td", line.state !== "shown" ? "" : Object.entries(creative.shares)
    .map(([place, share]) => percent(share) + " of " + place).join(", "), row);
  showNumbers(creative.counts, row);
  element("td", creative.counts ? money(creative.counts.revenue_micros, campaign.currency) : "–", row, "number");
}

function showCampaign(campaign) {
  const made = element("section", "", main);
  const head = element("h2", campaign.name || campaign.id, made);
  element("span", " ", head);
  if (campaign.status !== "published") element("span", campaign.status, head, "state " + campaign.status);
  element("p", campaign.id + " for " + campaign.advertiser, made, "meta");
  campaign.budgets.forEach((one) => showBudget(one, campaign.currency, made));
  const table = element("table", "", element("div", "", made, "scroll"));
  const row = element("tr", "", table);
  [["line, creative", ""], ["now", ""], ["budget; share of decisions", ""], ["impressions", "number"],
    ["clicks", "number"], ["conversions", "number"], ["click rate", "number"], ["revenue", "number"]]
    .forEach(([text, className]) => element("th", text, row, className));
  campaign.lines.forEach((line) => showLine(line, campaign, table));
}

async function show() {
  const key = sessionStorage.getItem("herald-delivery-key");
  const headers = key ? { authorization: "Bearer " + key } : {};
  const answer = await fetch("/v1/reports/campaigns", { headers, cache: "no-store" });
  door.hidden = answer.status !== 401;
  if (answer.status === 401) {
    said.textContent = key ? "This key is not one of HERALD_DELIVERY_KEYS." : "A delivery key is asked for.";
    main.replaceChildren();
    return;
  }
  const report = await answer.json();
  if (!answer.ok) throw new Error(report.detail || String(answer.status));
  main.replaceChildren();
  report.campaigns.forEach(showCampaign);
  if (!report.campaigns.length) element("p", "No campaign was published yet: herald campaigns import FILE.", main);
  const missing = report.degraded.length ? "; " + report.degraded.join("; ") : "";
  said.textContent = "Decisions since " + new Date(report.from_ms).toLocaleString() + ", as of "
    + new Date(report.at_ms).toLocaleTimeString() + missing + (report.truncated ? "; not all lines are shown" : "");
}

async function turn() {
  try {
    await show();
  } catch (error) {
    said.textContent = "Delivery does not answer: " + error.message;
  }
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("herald-delivery-key", document.getElementById("key").value);
  turn();
});
turn();
setInterval(() => { if (!document.hidden) turn(); }, EVERY_MS);
