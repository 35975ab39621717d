// The server that this page is of, asked in the name of whoever has signed in.

import { Sightline } from "./client/index.js";
import { signIn, token } from "./sign_in.js";

export const server = new Sightline(new URL(".", document.baseURI), { token, signIn });
