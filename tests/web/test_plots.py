"""The plotting library works under the page's Content Security Policy."""

DRAW = """async () => {
    const { default: uPlot } = await import("/page/vendor/uplot/uPlot.esm.js");
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "/page/vendor/uplot/uPlot.min.css";
    const is_there = new Promise(done => { style.onload = done; });
    document.head.append(style);
    await is_there;
    const place = document.createElement("div");
    document.body.append(place);
    const plot = new uPlot({
        width: 600, height: 300, title: "<b>drawn</b>",
        scales: { x: { time: false } },
        series: [{ label: "token" }, { label: "<i>logprob</i>", stroke: "red", fill: "#f002", points: { show: true } },
            { label: "bars", paths: uPlot.paths.bars({ size: [0.6] }), stroke: "blue" }],
        hooks: { ready: [] },
    }, [[0, 1, 2, 3], [-1, -0.5, -3, -2], [-2, -1, -1, -2]], place);
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    plot.setData([[0, 1, 2], [-2, -1, -4], [-1, -2, -3]]);
    plot.setCursor({ left: 200, top: 100 });
    plot.setSize({ width: 500, height: 250 });
    plot.setSeries(1, { show: false });
    plot.setSeries(1, { show: true });
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const canvas = plot.ctx.canvas;
    const pixels = plot.ctx.getImageData(0, 0, canvas.width, canvas.height).data;
    const is_red = at => pixels[at] > 200 && pixels[at + 1] < 80 && pixels[at + 3] > 200;
    let red = 0;
    for (let at = 0; at < pixels.length; at += 4) red += is_red(at);
    return { red, title: place.querySelector(".u-title").textContent, position: getComputedStyle(plot.over).position,
        labels: [...place.querySelectorAll(".u-label")].map(label => label.textContent) };
}"""


def test_plots_are_drawn(page, screenshot):
    page.goto("/")
    drawn = page.evaluate(DRAW)
    assert drawn["red"] > 100
    # From uPlot's style sheet.
    assert drawn["position"] == "absolute"
    # Labels are text, whatever they contain.
    assert drawn["title"] == "<b>drawn</b>"
    assert "<i>logprob</i>" in drawn["labels"]
    box = page.locator("body > div .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    screenshot("plots")
