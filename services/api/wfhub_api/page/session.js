// Session: the API token, for as long as this tab is open.
//
// sessionStorage only: no cookie (nothing to forge a request with), no URL, no disk.

const KEY = "wfhub-token";

export const token = () => sessionStorage.getItem(KEY) ?? "";

export const keep = (value) => sessionStorage.setItem(KEY, value);

export const forget = () => sessionStorage.removeItem(KEY);
