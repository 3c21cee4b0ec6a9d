/** @type {{data: {id: string}[]}} */
const models = await (await fetch("/v1/models")).json();
const place = document.getElementById("model");
if (place) place.textContent = models.data[0]?.id ?? "no model";
